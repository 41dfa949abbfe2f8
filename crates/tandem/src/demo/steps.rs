//! The steps of the demonstration, each with what must hold.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tandem_module::db::DbValue;

use super::agent::{Agent, Answering};
use super::cluster::{ACCOUNTS, Cluster, until};
use super::timeline::{Timeline, span};

/// Time that gossip of the script may take to arrive.
const SOON: Duration = Duration::from_secs(2);
/// Queries that are pending while a node answers OPTIONS.
const PENDING_COUNT: usize = 1000;
/// Wait before unanswered requests are sent again, and how often that is done.
const RESEND: Duration = Duration::from_millis(300);
const RESENDS_MAX: usize = 6;
/// OPTIONS measured.
const PROBES: usize = 100;
/// The script waits so long for an answer.
const WAIT: Duration = Duration::from_secs(5);

/// All of them, in order.
pub(super) fn all(timeline: &mut Timeline, cluster: &mut Cluster) -> anyhow::Result<()> {
    join(timeline, cluster)?;
    let (alice, bob) = register(timeline, cluster)?;
    call(timeline, cluster, &alice, &bob)?;
    nobody(timeline, cluster, &alice)?;
    scanner(timeline, cluster)?;
    conference(timeline, cluster, &alice)?;
    records(timeline, cluster)?;
    lost_node(timeline, cluster, &alice, bob)
}

fn phone(cluster: &Cluster, host: u8, user: &str) -> anyhow::Result<Agent> {
    let password = ACCOUNTS.iter().find(|(name, _)| *name == user).map_or("", |(_, password)| *password);
    Agent::new(cluster.ip(host), user, password)
}

fn join(timeline: &mut Timeline, cluster: &mut Cluster) -> anyhow::Result<()> {
    timeline.step(1, "nodes 1 and 2 know each other, node 3 names only node 1 and learns node 2");
    for number in 1..=3 {
        cluster.start(number)?;
    }
    let mut died = Ok(());
    let took = until(Duration::from_secs(10), || {
        died = cluster.expect_alive();
        died.is_err() || cluster.all_up()
    });
    died?;
    let took_text = took.map_or("never".to_owned(), span);
    timeline.check(
        "all three show each other Up within 3 s",
        took.is_some_and(|took| took <= Duration::from_secs(3)),
        &took_text,
    );
    Ok(())
}

fn register(timeline: &mut Timeline, cluster: &Cluster) -> anyhow::Result<(Agent, Answering)> {
    timeline.step(2, "users register with digest; every node hears of it");
    let alice = phone(cluster, 11, "alice")?;
    let code = alice.register(cluster.sip(1), 600)?;
    timeline.check("alice registers at node 1 (subscriber table in SQLite)", code == 200, &code.to_string());
    let bob = phone(cluster, 12, "bob")?;
    let code = bob.register(cluster.sip(2), 600)?;
    timeline.check(
        "bob registers at node 2, which has no database: node 3 answers for it",
        code == 200,
        &code.to_string(),
    );
    for (user, home) in [("alice", 1), ("bob", 2)] {
        for number in (1..=3).filter(|number| *number != home) {
            let want = cluster.sip(home).to_string();
            let took = until(SOON, || cluster.cached(number, &format!("reg:{user}")).as_deref() == Some(&want));
            timeline.check(&format!("node {number} has heard that {user} is at node {home}"), took.is_some(), "");
        }
    }
    let dave = phone(cluster, 13, "dave")?;
    dave.register(cluster.sip(3), 600)?;
    let there = until(SOON, || cluster.cached(1, "reg:dave").is_some()).is_some();
    let code = dave.register(cluster.sip(3), 0)?;
    let gone = until(SOON, || cluster.cached(1, "reg:dave").is_none()).is_some();
    timeline.check("dave registers at node 3 and leaves; node 1 hears both", there && code == 200 && gone, "");
    let erin = phone(cluster, 14, "erin")?;
    erin.register(cluster.sip(1), 1)?;
    let there = until(SOON, || cluster.cached(3, "reg:erin").is_some()).is_some();
    let gone = until(Duration::from_secs(6), || cluster.cached(3, "reg:erin").is_none());
    let text = gone.map_or("never".to_owned(), span);
    timeline.check("erin's binding expires; E_UL_AOR_DELETE tells the others", there && gone.is_some(), &text);
    Ok((alice, bob.answer()))
}

fn call(timeline: &mut Timeline, cluster: &Cluster, alice: &Agent, bob: &Answering) -> anyhow::Result<()> {
    timeline.step(3, "alice, at node 1, calls bob: node 1 asks the cluster");
    match alice.call(cluster.sip(1), "bob")? {
        Ok(call) => {
            timeline.check(
                "node 2 answers HEREIS and bob's phone rings",
                bob.hops_seen() > 0,
                &format!("INVITE to ringing {}", span(call.ringing)),
            );
            // Long enough for a duration of at least one second in the record.
            until(Duration::from_millis(1200), || false);
            let code = alice.hang_up(&call)?;
            timeline.check("the BYE passes by Record-Route over both nodes", code == 200, &code.to_string());
        }
        Err(code) => {
            timeline.check("bob answers", false, &code.to_string());
        }
    }
    let mut queries: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        if let Ok(call) = alice.call(cluster.sip(1), "bob")? {
            queries.push(call.ringing);
            alice.hang_up(&call)?;
        }
    }
    queries.sort();
    if let Some(median) = queries.get(queries.len() / 2) {
        timeline.note(&format!(
            "query, answer, relay and ringing over {} calls: median {}",
            queries.len(),
            span(*median)
        ));
    }
    pending(timeline, cluster, alice)
}

fn median_options(cluster: &Cluster, agent: &Agent) -> anyhow::Result<Duration> {
    let mut all = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        all.push(agent.options(cluster.sip(1))?.1);
    }
    all.sort();
    Ok(all.get(PROBES / 2).copied().unwrap_or_default())
}

fn pending(timeline: &mut Timeline, cluster: &Cluster, alice: &Agent) -> anyhow::Result<()> {
    let idle = median_options(cluster, alice)?;
    let ghost = Agent::new(cluster.ip(15), "victim", "")?;
    let requests = ghost.flood(cluster.sip(1), PENDING_COUNT)?;
    let are_waiting = || parked(cluster) >= PENDING_COUNT as i64;
    let mut waiting = until(RESEND, are_waiting).is_some();
    for _ in 0..RESENDS_MAX {
        if waiting {
            break;
        }
        // As any user agent over UDP: what a full receive buffer lost is sent again.
        ghost.send_again(cluster.sip(1), &requests)?;
        waiting = until(RESEND, are_waiting).is_some();
    }
    let busy = median_options(cluster, alice)?;
    let detail = format!("OPTIONS idle {}, with {} queries pending {}", span(idle), parked(cluster), span(busy));
    let is_fast = busy < idle * 3 + Duration::from_millis(1);
    timeline.check("a node with 1,000 pending queries answers as fast as an idle one", waiting && is_fast, &detail);
    let refused = ghost.collect(PENDING_COUNT, 404, WAIT + Duration::from_secs(3))?;
    // A reply of the burst may be lost on its way to this one small socket; the script must not lose a query.
    timeline.check(
        "the pending queries end with 404",
        refused >= PENDING_COUNT * 90 / 100,
        &format!("{refused} of {PENDING_COUNT}"),
    );
    Ok(())
}

fn parked(cluster: &Cluster) -> i64 {
    let params = [("statistics", serde_json::json!(["core:parked_runs"]))];
    let Ok(result) = cluster.mi(1, "get_statistics", &params) else { return 0 };
    let value = result.as_object().and_then(|map| map.values().next()).cloned().unwrap_or_default();
    value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

fn nobody(timeline: &mut Timeline, cluster: &Cluster, alice: &Agent) -> anyhow::Result<()> {
    timeline.step(4, "nobody has carol: a time-out is no answer, and a foreign answer is none either");
    forge_answer(cluster).context("the forged answer")?;
    let start = Instant::now();
    let answer = alice.call(cluster.sip(1), "carol")?;
    let took = start.elapsed();
    let is_right = matches!(answer, Err(404)) && took >= WAIT && took < WAIT + Duration::from_secs(2);
    timeline.check("after five seconds the resume route knows that nobody answered: 404", is_right, &span(took));
    Ok(())
}

/// An answer with a tag that no query has, sent to node 1 from an address of the cluster.
fn forge_answer(cluster: &Cluster) -> anyhow::Result<()> {
    let mut packet = tandem_bin::PacketWriter::new(b"clusterer-extra", 7, 1);
    packet.int(0);
    packet.str(b"1-1-AAAAAAAAAAAAAAAAAAAAAAAA").str(b"HEREIS:carol:127.0.0.1:9");
    packet.trailer(tandem_bin::Trailer { cluster_id: 1, src_id: 3, dst_id: 1 });
    let bytes = packet.finish()?;
    // From the address of node 3: what comes from elsewhere is dropped before anybody looks at the tag.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((cluster.ip(3), 0)).into())?;
    socket.connect(&SocketAddr::from((cluster.ip(1), 5555)).into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&bytes)?;
    Ok(())
}

fn scanner(timeline: &mut Timeline, cluster: &Cluster) -> anyhow::Result<()> {
    timeline.step(5, "a scanner guesses passwords at node 1; all nodes block it");
    let scanner = Agent::new(cluster.ip(66), "victim", "guess")?;
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(scanner.register(cluster.sip(1), 60)?);
    }
    let caught = Instant::now();
    timeline.check("the third wrong password is answered 403", codes.last() == Some(&403), &format!("{codes:?}"));
    let mut refused =
        || [2, 3].iter().all(|number| scanner.options(cluster.sip(*number)).is_ok_and(|(code, _)| code == 403));
    let blocked = until(SOON, &mut refused).is_some();
    timeline.check(
        "nodes 2 and 3 refuse that address",
        blocked,
        &format!("detected to refused everywhere {}", span(caught.elapsed())),
    );
    Ok(())
}

fn conference(timeline: &mut Timeline, cluster: &Cluster, alice: &Agent) -> anyhow::Result<()> {
    timeline.step(6, "a conference opens at node 2; a call for it that arrives at node 3 finds it");
    let focus = phone(cluster, 16, "conf-9000")?;
    let code = focus.register(cluster.sip(2), 600)?;
    let focus = focus.answer();
    let known = until(SOON, || cluster.cached(3, "conf:conf-9000").is_some());
    timeline.check("node 3 knows where conference 9000 is", code == 200 && known.is_some(), "");
    let answered = match alice.call(cluster.sip(3), "conf-9000")? {
        Ok(call) => alice.hang_up(&call)? == 200,
        Err(_) => false,
    };
    timeline.check("the call is routed to node 2 and answered", answered && focus.hops_seen() == 1, "");
    focus.end()?;
    Ok(())
}

fn records(timeline: &mut Timeline, cluster: &Cluster) -> anyhow::Result<()> {
    timeline.step(7, "node 3, the only one with the accounting database, writes the call records");
    // 21 calls to bob and one to the conference.
    let complete = until(SOON, || cluster.call_records().is_ok_and(|rows| rows.rows.len() >= 22)).is_some();
    let rows = cluster.call_records()?;
    timeline.check(
        "one record for each of the 22 calls",
        complete && rows.rows.len() == 22,
        &rows.rows.len().to_string(),
    );
    let first = rows.rows.first().cloned().unwrap_or_default();
    let duration = first.get(2).and_then(DbValue::as_int).unwrap_or(-1);
    let names = [first.first(), first.get(1)].map(|name| name.and_then(DbValue::to_text).unwrap_or_default());
    let is_right = names == [b"alice".to_vec(), b"bob".to_vec()] && (1..=3).contains(&duration);
    timeline.check("the record of the first call: alice, bob, its seconds", is_right, &format!("{duration} s"));
    Ok(())
}

fn lost_node(timeline: &mut Timeline, cluster: &mut Cluster, alice: &Agent, bob: Answering) -> anyhow::Result<()> {
    timeline.step(8, "node 2 is killed, and comes back");
    let start = Instant::now();
    cluster.kill(2)?;
    let noticed =
        until(Duration::from_secs(15), || [1, 3].iter().all(|number| cluster.has_logged(*number, "node 2 is now 0")));
    let text = noticed.map_or("never".to_owned(), span);
    timeline.check("nodes 1 and 3 raise E_CLUSTERER_NODE_STATE_CHANGED", noticed.is_some(), &text);
    let answer = alice.call(cluster.sip(1), "bob")?;
    let code = answer.map_or_else(|code| code, |_| 200);
    timeline.check(
        "a call to bob ends cleanly",
        matches!(code, 404 | 480),
        &format!("{code}, {} after the kill", span(start.elapsed())),
    );
    let start = Instant::now();
    cluster.start(2)?;
    let back = until(Duration::from_secs(15), || cluster.all_up());
    timeline.check("started again, node 2 is back with no hand on it", back.is_some(), &span(start.elapsed()));
    let bob = bob.end()?;
    let code = bob.register(cluster.sip(2), 600)?;
    let bob = bob.answer();
    let found = match alice.call(cluster.sip(1), "bob")? {
        Ok(call) => alice.hang_up(&call)? == 200,
        Err(_) => false,
    };
    timeline.check("bob registers there again and alice finds him", code == 200 && found, "");
    bob.end()?;
    Ok(())
}
