//! A test function is only there in tests: its arguments are looked at all the same.

#[overlapped::test(multi_thread)]
async fn bare() {}

#[overlapped::test(flavor = "local", workers = 2)]
async fn workers_of_one_thread() {}

fn main() {}
