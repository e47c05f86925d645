//! What bench/fibers.c measures, with tasks on tokio's current-thread runtime.
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
const TASKS: u32 = 200_000;
const YIELDS: u32 = 1_000_000;
const FIBERS: u32 = 100;
const TIMERS: u32 = 100_000;

async fn spawn_and_join() {
    for _ in 0..TASKS {
        tokio::spawn(async {}).await.unwrap();
    }
}

async fn yields() {
    let all: Vec<_> = (0..FIBERS)
        .map(|_| {
            tokio::spawn(async {
                for _ in 0..YIELDS / FIBERS {
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
}

async fn sleeps() {
    let all: Vec<_> = (0..TIMERS)
        .map(|_| tokio::spawn(tokio::time::sleep(Duration::from_millis(1))))
        .collect();
    for one in all {
        one.await.unwrap();
    }
}

fn median(mut ns: Vec<f64>) -> f64 {
    ns.sort_by(|a, b| a.total_cmp(b));
    ns[ns.len() / 2]
}

fn main() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let time = |n: u32, which: u32| {
        median(
            (0..ROUNDS)
                .map(|_| {
                    let start = Instant::now();
                    match which {
                        0 => rt.block_on(spawn_and_join()),
                        1 => rt.block_on(yields()),
                        _ => rt.block_on(sleeps()),
                    }
                    start.elapsed().as_nanos() as f64 / f64::from(n)
                })
                .collect(),
        )
    };
    println!("{:<14} {:>10.1} ns", "submit+join", time(TASKS, 0));
    println!("{:<14} {:>10.1} ns", "yield", time(YIELDS, 1));
    println!("{:<14} {:>10.1} ns", "sleep 1 ms", time(TIMERS, 2));
}
