//! Each module has one mistake.

mod unknown {
    #[overlapped::main(threads = 2)]
    async fn main() {}
}

mod bare {
    #[overlapped::main(local)]
    async fn main() {}
}

mod unknown_flavor {
    #[overlapped::main(flavor = "current_thread")]
    async fn main() {}
}

mod flavor_without_quotes {
    #[overlapped::main(flavor = sharded)]
    async fn main() {}
}

mod no_value {
    #[overlapped::main(workers)]
    async fn main() {}
}

mod nothing_after_equals {
    #[overlapped::main(workers = )]
    async fn main() {}
}

mod no_workers {
    #[overlapped::main(workers = 0)]
    async fn main() {}
}

mod fewer_than_none {
    #[overlapped::main(workers = -1)]
    async fn main() {}
}

mod not_a_number {
    #[overlapped::main(workers = "four")]
    async fn main() {}
}

mod twice {
    #[overlapped::main(workers = 2, workers = 3)]
    async fn main() {}
}

mod workers_of_one_thread {
    #[overlapped::main(flavor = "local", workers = 2)]
    async fn main() {}
}

mod workers_of_one_thread_the_other_way_round {
    #[overlapped::main(workers = 2, flavor = "local")]
    async fn main() {}
}

mod no_comma {
    #[overlapped::main(workers = 2 flavor = "sharded")]
    async fn main() {}
}

fn main() {}
