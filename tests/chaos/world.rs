//! A vendor, a gateway in a process of its own, and their address; rounds of calls go over them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::callers::{Callers, SLACK, Seen};
use crate::gateway::{Gateway, Log, Site};
use crate::plan::truth::Use;
use crate::plan::{Fate, Plan};
use crate::record::{Life, Moment, Records};
use crate::vendor::Vendor;
use crate::{oracle, report};

/// How long the gateway may take to mend itself when nothing goes wrong any more. The longest that it waits for is
/// the gap between logins that 401s cause, which a run's few refusals can double to some 8 s.
const MENDING: Duration = Duration::from_secs(45);
/// How long after the last caller has left nothing may be left behind.
const SETTLING: Duration = Duration::from_secs(15);
/// How much longer than its `drain-timeout` a process may take to end.
const ENDING: Duration = Duration::from_secs(10);
/// What is seen again so often is at rest.
const SAME: u32 = 5;
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What a gateway at rest holds, connections to the vendor aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    files: usize,
    tasks: usize,
}

/// A vendor and its gateway.
pub(crate) struct World {
    site: Site,
    vendor: Vendor,
    pub(crate) gateway: Option<Gateway>,
    lives: Vec<Life>,
    rest: Rest,
    oddities: Vec<String>,
    /// The last process's log.
    pub(crate) log: Log,
}

/// An address that nobody else has: one of this process's share of the loopback network, so that ports can be fixed,
/// and no connection finds itself where a listener was.
fn host() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let byte = |value: u32| u8::try_from(value % 250 + 2).unwrap_or(2);
    Ipv4Addr::new(127, byte(process), byte(process / 250), byte(number))
}

impl World {
    /// Starts both, and waits until the gateway has its first token and is at rest.
    pub(crate) async fn start(plan: &Arc<Plan>) -> Result<Self, String> {
        let host = host();
        let address = SocketAddr::from((host, 8080));
        let vendor = Vendor::start(address, Arc::clone(plan)).await;
        let vendor = vendor.map_err(|error| format!("the vendor can't listen on {address}: {error}"))?;
        let site = Site { host, vendor: vendor.url(), settings: plan.settings.clone() };
        let gateway = site.start(1).await?;
        let lives = vec![Life { drained: None, killed: None, ended: None }];
        let rest = Rest { files: 0, tasks: 0 };
        let (oddities, log) = (Vec::new(), Log::default());
        let mut world = Self { site, vendor, gateway: Some(gateway), lives, rest, oddities, log };
        let (mut last, mut same) = (None, 0);
        let is_at_rest = async {
            loop {
                let now = world.rest().await.filter(|_| world.vendor.logins() > 0);
                same = if now == last { same + 1 } else { 0 };
                if let Some(rest) = now.filter(|_| same >= SAME) {
                    return rest;
                }
                last = now;
                tokio::time::sleep(LOOK).await;
            }
        };
        let rest = tokio::time::timeout(SETTLING, is_at_rest).await;
        world.rest = rest.map_err(|_| "the gateway does not come to rest before anybody calls")?;
        Ok(world)
    }

    /// What the gateway holds now, if nobody calls and nothing is under way.
    async fn rest(&self) -> Option<Rest> {
        let gateway = self.gateway.as_ref()?;
        let metrics = gateway.probe.metrics().await?;
        let sum = |name| metrics.sum(name);
        let is_idle = sum("federation_watchers") == 0.0
            && sum("federation_pollers") == 0.0
            && sum("federation_upstream_in_flight") == 0.0
            && sum("grpc_server_started_total") == sum("grpc_server_handled_total")
            && sum("federation_token_remaining_seconds") > 0.0;
        let (under_way, connections) = self.vendor.under_way();
        let files = gateway.probe.open_files()?.checked_sub(connections)?;
        let tasks = (sum("federation_runtime_tasks") as usize).checked_sub(connections)?;
        (is_idle && under_way == 0).then_some(Rest { files, tasks })
    }

    /// One round; what is wrong with it.
    pub(crate) async fn round(&mut self, plan: &Arc<Plan>) -> Vec<String> {
        let began = Moment::now();
        let truth = self.vendor.begin(Arc::clone(plan));
        let callers = Arc::new(Callers::new(Arc::clone(plan), self.site.address()));
        let (stall, mut watching) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        watching.spawn(watch_clock(Arc::clone(&stall)));
        let mut living = JoinSet::new();
        for caller in 0..plan.scripts.len() {
            let callers = Arc::clone(&callers);
            living.spawn(async move { callers.live(caller).await });
        }
        let end = truth + plan.active;
        let Self { site, vendor, gateway, lives, .. } = self;
        let fated = async {
            let Some((at, fate)) = plan.fate else { return Vec::new() };
            tokio::time::sleep_until(truth + at).await;
            restart(site, gateway, lives, fate, plan).await
        };
        let suffering = tokio::time::timeout_at(end, vendor.suffer(plan, truth));
        // That the last blow is cut short by the end is no fault.
        let (odd, _, ()) = tokio::join!(fated, suffering, tokio::time::sleep_until(end));
        self.oddities.extend(odd);
        callers.enough.cancel();
        self.vendor.calm_down();
        if self.gateway.is_some() {
            let mended = mended(plan, &callers).await;
            self.oddities.extend(mended.err());
        }
        callers.leave.cancel();
        let all_left = async { while living.join_next().await.is_some() {} };
        let patience = plan.settings.request_timeout + SLACK + SLACK;
        if tokio::time::timeout(patience, all_left).await.is_err() {
            self.oddities.push(format!("{} callers did not come to their ends", living.len()));
        }
        living.shutdown().await;
        let mut calls = callers.take();
        calls.sort_by_key(|call| call.began.at);
        // Their connections end with them.
        drop(callers);
        self.settle().await;
        let written = self.vendor.take();
        let mut oddities = std::mem::take(&mut self.oddities);
        oddities.extend(written.oddities);
        if let Some(gateway) = &self.gateway {
            oddities.append(&mut gateway.log().oddities);
        }
        watching.shutdown().await;
        let records = Records {
            stall: Duration::from_micros(stall.load(Ordering::Relaxed)),
            exchanges: written.exchanges,
            logins: written.logins,
            outages: written.outages,
            calls,
            lives: self.lives.clone(),
            oddities,
        };
        let began = Moment { at: truth, wall: began.wall + (truth - began.at) };
        report::count(&records);
        let plan = Arc::clone(plan);
        // Beside the others, whom it would hold up.
        let judged = tokio::task::spawn_blocking(move || oracle::judge(&plan, began, &records));
        judged.await.unwrap_or_else(|error| vec![format!("the oracle died: {error}")])
    }

    /// Waits until nothing is left behind.
    async fn settle(&mut self) {
        let mut last = None;
        let settled = async {
            loop {
                let rest = self.rest().await;
                // Less than at rest: the vendor was late to see a connection's end when that was looked at.
                if rest.is_some_and(|now| now.files <= self.rest.files && now.tasks <= self.rest.tasks) {
                    return;
                }
                last = rest.or(last);
                tokio::time::sleep(LOOK).await;
            }
        };
        if self.gateway.is_none() || tokio::time::timeout(SETTLING, settled).await.is_ok() {
            return;
        }
        let idle = self.rest;
        let (under_way, connections) = self.vendor.under_way();
        let mut left = format!(
            "something is left behind: {last:?} where at rest there are {idle:?}; the vendor has {under_way} requests under way and {connections} connections"
        );
        if let Some(metrics) = match &self.gateway {
            Some(gateway) => gateway.probe.metrics().await,
            None => None,
        } {
            for name in [
                "federation_watchers",
                "federation_pollers",
                "federation_upstream_in_flight",
                "grpc_server_started_total",
                "grpc_server_handled_total",
                "federation_runtime_tasks",
                "federation_token_remaining_seconds",
                "process_open_fds",
            ] {
                left.push_str(&format!("\n      {name} {}", metrics.sum(name)));
            }
        }
        self.oddities.push(left);
    }

    /// Ends the gateway; what is wrong with its end.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        let Some(gateway) = self.gateway.take() else { return Vec::new() };
        match drain(gateway, self.site.settings.drain_timeout).await {
            Ok(log) => {
                let odd = log.oddities.clone();
                self.log = log;
                odd
            }
            Err(what) => vec![what],
        }
    }
}

/// Notes the longest that this process stands still, for as long as it is polled.
async fn watch_clock(stall: Arc<AtomicU64>) {
    const TICK: Duration = Duration::from_millis(5);
    loop {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due).await;
        let late = due.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        stall.fetch_max(late, Ordering::Relaxed);
    }
}

async fn drain(gateway: Gateway, drain_timeout: Duration) -> Result<Log, String> {
    gateway.terminate().await?;
    let (status, log) = gateway.ended(drain_timeout + ENDING).await?;
    if status.success() {
        Ok(log)
    } else {
        Err(format!("the drained gateway ended with {status}: {:?}", log.tail))
    }
}

/// Ends the process, and starts a new one in its place; what is wrong with that.
async fn restart(
    site: &Site,
    gateway: &mut Option<Gateway>,
    lives: &mut Vec<Life>,
    fate: Fate,
    plan: &Plan,
) -> Vec<String> {
    let (Some(old), Some(life)) = (gateway.take(), lives.last_mut()) else { return Vec::new() };
    let now = Some(Instant::now());
    let ended = match fate {
        Fate::Drained => {
            life.drained = now;
            drain(old, plan.settings.drain_timeout).await
        }
        Fate::Killed => {
            life.killed = now;
            old.kill().await
        }
    };
    life.ended = Some(Instant::now());
    let mut odd = ended.map_or_else(|what| vec![what], |log| log.oddities);
    match site.start(lives.len() + 1).await {
        Ok(new) => {
            *gateway = Some(new);
            lives.push(Life { drained: None, killed: None, ended: None });
        }
        Err(what) => odd.push(what),
    }
    odd
}

/// Whether each task can be asked for, and who watches is told what is true.
async fn mended(plan: &Plan, callers: &Callers) -> Result<(), String> {
    let began = Instant::now();
    for (task, of) in plan.tasks.iter().enumerate().filter(|(_, task)| task.used_by == Use::All) {
        while !callers.ask(task).await {
            if began.elapsed() > MENDING {
                return Err(format!("{} can't be asked for, {MENDING:?} after the last fault", of.id));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    loop {
        let behind = callers.watched().into_iter().find(|(task, seen)| {
            let truth = plan.tasks[*task].versions.last().map(|(_, content)| *content);
            match seen {
                Seen::Done => false,
                Seen::Content(content) => Some(*content) != truth,
                Seen::Nothing => true,
            }
        });
        let Some((task, seen)) = behind else { return Ok(()) };
        if began.elapsed() > MENDING {
            let id = &plan.tasks[task].id;
            return Err(format!(
                "who watches {id} has {seen:?} to the end, {MENDING:?} after the last fault"
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}
