//! Requests at a steady rate, and how long each took from the moment it was due.
//!
//! An answer that is late makes the next request of its connection late, too, and its wait counts: the rate does not
//! give way to a slow proxy.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::{Client, Done, now_ns};

const SECOND_NS: u64 = 1_000_000_000;

/// Asks for so long at so many requests a second over all clients together.
pub(super) async fn round(clients: Vec<Client>, rate: u32, time: Duration) -> Result<Done> {
    let count = u64::try_from(clients.len())?;
    let gap_ns = SECOND_NS / u64::from(rate);
    let period_ns = gap_ns * count;
    let requests = u64::try_from(time.as_nanos())? / period_ns;
    let begin_ns = now_ns() + 10 * period_ns;
    let mut tasks = JoinSet::new();
    for (client, number) in clients.into_iter().zip(0..) {
        let first_ns = begin_ns + number * gap_ns;
        tasks.spawn(ask(client, first_ns, period_ns, requests));
    }
    let mut done = Done::default();
    while let Some(task) = tasks.join_next().await {
        let (client, latencies_ns) = task??;
        done.clients.push(client);
        done.answers += u64::try_from(latencies_ns.len())?;
        done.latencies_ns.extend(latencies_ns);
    }
    Ok(done)
}

async fn ask(
    mut client: Client,
    first_ns: u64,
    period_ns: u64,
    requests: u64,
) -> Result<(Client, Vec<u64>)> {
    let alarm = Alarm::new()?;
    let mut latencies_ns = Vec::with_capacity(usize::try_from(requests)?);
    for number in 0..requests {
        let due_ns = first_ns + number * period_ns;
        alarm.wait_until(due_ns).await?;
        client.exchange().await?;
        latencies_ns.push(now_ns() - due_ns);
    }
    Ok((client, latencies_ns))
}

/// A timer of the kernel's: the runtime's own count in milliseconds, which is longer than what is measured.
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an `OwnedFd` gives the same descriptor to the end, as that asks"
    )]
    fn new() -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        Ok(Self(AsyncFd::new(timer)?))
    }

    async fn wait_until(&self, due_ns: u64) -> Result<()> {
        if now_ns() >= due_ns {
            return Ok(());
        }
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let due = Timespec {
            tv_sec: (due_ns / SECOND_NS).try_into()?,
            tv_nsec: (due_ns % SECOND_NS).try_into()?,
        };
        let setting = Itimerspec {
            it_interval: zero,
            it_value: due,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &setting)?;
        let mut expirations = [0; 8];
        loop {
            let mut ready = self.0.readable().await?;
            let read =
                ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?));
            if let Ok(read) = read {
                ensure!(read? == expirations.len(), "half a number from a timer");
                return Ok(());
            }
        }
    }
}
