//! Each item has one mistake.

#[overlapped::main]
fn not_async() {}

#[overlapped::main]
async fn takes_something(_argument: u32) {}

#[overlapped::test]
async fn takes_something_too(_argument: u32) {}

#[overlapped::main]
struct NoFunction;

trait NoBody {
    #[overlapped::main]
    async fn no_body();
}

fn main() {}
