//! What a node does when its Redis or its rtpengine is down, killed, slow, full, or talks nonsense: who needs it is answered
//! in bounded time, everybody else notices nothing, calls go on, what was acknowledged is there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::phone::{Call, Phone, Request, status};
use support::{Place, Process, until};
use tandem_testbed::{Fault, Proxy, Redis, Rtpengine};

/// Loopback networks of this test; see the others for theirs.
const NETS: std::ops::RangeInclusive<u8> = 30..=49;
/// Longest time for something that needs nothing.
const QUICK: Duration = Duration::from_secs(1);
/// Time limits of the scripts.
const TIMEOUT: Duration = Duration::from_secs(2);
const RECOVERY: Duration = Duration::from_secs(30);

const HEAD: &str = r#"log_level = 3
xlog_level = 3
stderror_enabled = yes
syslog_enabled = no
socket = udp:NET.1:5060
loadmodule "proto_udp.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "sipmsgops.so"
loadmodule "httpd.so"
loadmodule "mi_http.so"
modparam("httpd", "ip", "NET.1")
modparam("httpd", "port", 8888)
"#;

const CACHE: &str = r#"loadmodule "cachedb_redis.so"
modparam("cachedb_redis", "cachedb_url", "redis:r://127.0.0.1:PORT/")
modparam("cachedb_redis", "query_timeout", 2000)
modparam("cachedb_redis", "connect_timeout", 2000)
route {
	if (is_method("OPTIONS")) {
		sl_send_reply(200, "OK");
		exit;
	}
	if (cache_store("redis:r", "$fU", "$(fU{s.len})-$rb"))
		sl_send_reply(200, "Stored");
	else
		sl_send_reply(500, "Not stored");
}
"#;

const MEDIA: &str = r#"loadmodule "rtpengine.so"
modparam("rtpengine", "rtpengine_sock", "udp:127.0.0.1:PORT")
modparam("rtpengine", "rtpengine_tout", 1)
modparam("rtpengine", "rtpengine_retr", 1)
modparam("rtpengine", "rtpengine_disable_tout", 2)
modparam("rtpengine", "rtpengine_timer_interval", 1)
modparam("rtpengine", "error_pv", "$var(error)")
route {
	if (is_method("OPTIONS")) {
		sl_send_reply(200, "OK");
		exit;
	}
	if (has_totag()) {
		loose_route();
		if (is_method("BYE"))
			rtpengine_delete("delete-delay=0");
	} else {
		record_route();
		$du = "sip:NET.3:5060";
	}
	if (is_method("INVITE")) {
		if (!rtpengine_offer())
			xlog("not relayed: $var(error)\n");
		t_on_reply("answer");
	}
	t_relay();
}
onreply_route[answer] {
	if (has_body("application/sdp"))
		rtpengine_answer();
}
event_route[E_RTPENGINE_STATUS] {
	xlog("relay $param(status)\n");
}
"#;

struct World {
    place: Place,
    script: String,
    caller: Phone,
    callee: Phone,
    /// Needs nothing.
    bystander: Phone,
}

impl World {
    fn new(rest: &str, port: u16) -> World {
        let place = Place::claim(NETS);
        let script = format!("{HEAD}{rest}").replace("NET", &format!("127.0.{}", place.net()));
        let script = script.replace("PORT", &port.to_string());
        let [caller, callee, bystander] = [2, 3, 4].map(|host| Phone::new(place.ip(host), place.ip(1)));
        World { place, script, caller, callee, bystander }
    }

    fn start(&self) -> Process {
        let mut node = Process::tandem(&self.script, self.place.dir(), "node");
        assert!(node.is_running(), "{}", node.output());
        node
    }

    fn store(&self, key: &str, value: &str) -> (u16, Duration) {
        let request = Request { method: "MESSAGE", call: key, cseq: 1, user: key, body: value, ..Request::default() };
        let (reply, took) = self.caller.ask(&request);
        (status(&reply), took)
    }

    /// Stores keys of that name until one is acknowledged; which.
    fn stores_again(&self, name: &str, node: &Process) -> String {
        let mut number = 0;
        let came = until(RECOVERY, || {
            number += 1;
            self.store(&format!("{name}{number}"), "v").0 == 200
        });
        assert!(came.is_some(), "{}", node.output());
        format!("{name}{number}")
    }
    fn call(&self, id: &str) -> Call<'_> {
        Call::begin(&self.caller, &self.callee, id, &sdp(4000))
    }

    fn ends_well(&self, mut node: Process) {
        assert!(node.is_running(), "{}", node.output());
        assert!(!node.output().contains("panicked"), "{}", node.output());
    }
}

fn sdp(port: u16) -> String {
    format!(
        "v=0\r\no=a 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    )
}

fn value(redis: &Redis, key: &str) -> String {
    redis.cli(&["get", key]).unwrap().trim().to_owned()
}

#[test]
fn a_redis_that_is_down_at_start_or_killed_is_used_once_it_is_back() {
    let mut redis = Redis::start().unwrap();
    let world = World::new(CACHE, redis.port());
    redis.stop();
    let node = world.start();
    let (code, took) = world.store("early", "v");
    assert!(code == 500 && took < TIMEOUT + QUICK, "{code} after {took:?}");
    assert!(node.output().contains(&format!("127.0.0.1:{}", redis.port())), "{}", node.output());
    world.bystander.is_served(20, QUICK);
    for round in ["a", "b"] {
        redis.restart().unwrap();
        let key = world.stores_again(round, &node);
        assert_eq!(value(&redis, &key), format!("{}-v", key.len()));
        redis.kill();
        assert_eq!(world.store(&format!("lost-{round}"), "v").0, 500);
    }
    assert!(world.place.statistic(1, "cachedb_redis:redis_queries_failed") > 0);
    world.ends_well(node);
}

#[test]
fn a_slow_redis_holds_up_only_those_who_need_it() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::tcp(redis.port()).unwrap();
    let world = World::new(CACHE, proxy.port());
    let node = world.start();
    assert_eq!(world.store("first", "v").0, 200);
    proxy.set(Fault::Delay(Duration::from_secs(5)));
    let waiting = Request { method: "MESSAGE", call: "slow", cseq: 1, user: "slow", body: "v", ..Request::default() };
    world.caller.request(&waiting);
    world.bystander.is_served(20, QUICK);
    assert_eq!(status(&world.caller.final_reply(&waiting)), 500);
    let (code, took) = world.store("slower", "v");
    assert!(code == 500 && took < 2 * TIMEOUT + QUICK, "{code} after {took:?}");
    proxy.set(Fault::None);
    let back = world.stores_again("back", &node);
    assert_eq!((value(&redis, "first"), value(&redis, &back)), ("5-v".to_owned(), format!("{}-v", back.len())));
    world.ends_well(node);
}

#[test]
fn a_full_redis_refuses_and_keeps_what_it_acknowledged() {
    let redis = Redis::with_options(&["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]).unwrap();
    let world = World::new(CACHE, redis.port());
    let node = world.start();
    let before = world.place.statistic(1, "cachedb_redis:redis_queries_failed");
    let value_of = "x".repeat(4000);
    let mut acknowledged = Vec::new();
    let mut refused = None;
    for number in 0..1000 {
        let key = format!("k{number:03}");
        match world.store(&key, &value_of).0 {
            200 => acknowledged.push(key),
            code => {
                refused = Some(code);
                break;
            }
        }
    }
    assert!(refused == Some(500) && !acknowledged.is_empty(), "{refused:?} after {}", acknowledged.len());
    assert!(world.place.statistic(1, "cachedb_redis:redis_queries_failed") > before);
    world.bystander.is_served(20, QUICK);
    for key in &acknowledged {
        assert_eq!(redis.cli(&["strlen", key]).unwrap().trim(), "4002", "{key}");
    }
    redis.cli(&["config", "set", "maxmemory", "16mb"]).unwrap();
    world.stores_again("room", &node);
    world.ends_well(node);
}

#[test]
fn a_redis_that_talks_nonsense_is_an_error() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::tcp(redis.port()).unwrap();
    let world = World::new(CACHE, proxy.port());
    let node = world.start();
    assert_eq!(world.store("first", "v").0, 200);
    proxy.set(Fault::Garbage);
    for number in 0..5 {
        let (code, took) = world.store(&format!("odd{number}"), "v");
        assert!(code == 500 && took < 2 * TIMEOUT + QUICK, "{code} after {took:?}\n{}", node.output());
    }
    world.bystander.is_served(20, QUICK);
    proxy.set(Fault::None);
    let back = world.stores_again("back", &node);
    assert_eq!((value(&redis, "first"), value(&redis, &back)), ("5-v".to_owned(), format!("{}-v", back.len())));
    world.ends_well(node);
}

/// Whether a description was put in place by the relay.
fn is_relayed(sdp: &str) -> bool {
    sdp.contains("c=IN IP4 127.0.0.1") && !sdp.contains("m=audio 4000 ")
}

#[test]
fn calls_go_on_without_a_relay_and_with_it_when_it_is_there() {
    let mut relay = Rtpengine::start().unwrap();
    let world = World::new(MEDIA, relay.port());
    relay.stop();
    let node = world.start();
    let alone = world.call("alone");
    assert_eq!(alone.offered, sdp(4000));
    assert!(node.output().contains("not relayed: "), "{}", node.output());
    relay.restart().unwrap();
    let logged = |what: &str, times: usize| node.output().matches(what).count() >= times;
    assert!(until(RECOVERY, || logged("relay active", 1)).is_some(), "{}", node.output());
    let mut call = world.call("relayed");
    assert!(is_relayed(&call.offered) && is_relayed(&call.answered), "{}\n{}", call.offered, call.answered);
    alone.end();
    // Killed in mid-call: the call is renewed and ended without it.
    relay.kill();
    call.renew(&sdp(4000));
    assert_eq!(call.offered, sdp(4000));
    assert!(logged("relay inactive", 1), "{}", node.output());
    world.bystander.is_served(20, QUICK);
    relay.restart().unwrap();
    assert!(until(RECOVERY, || logged("relay active", 2)).is_some(), "{}", node.output());
    call.renew(&sdp(4000));
    assert!(is_relayed(&call.offered), "{}", call.offered);
    call.end();
    let again = world.call("again");
    assert!(is_relayed(&again.offered), "{}", again.offered);
    again.end();
    world.ends_well(node);
}

#[test]
fn a_slow_or_confused_relay_delays_its_calls_for_a_bounded_time_and_nobody_else() {
    let relay = Rtpengine::start().unwrap();
    let proxy = Proxy::udp(relay.port()).unwrap();
    let world = World::new(MEDIA, proxy.port());
    let node = world.start();
    let first = world.call("first");
    assert!(is_relayed(&first.offered));
    let logged = |what: &str, times: usize| node.output().matches(what).count() >= times;
    for (round, fault) in (1..).zip([Fault::Delay(Duration::from_secs(5)), Fault::Garbage]) {
        proxy.set(fault);
        let id = format!("slow{round}");
        let body = sdp(4000);
        let invite = Request { method: "INVITE", call: &id, cseq: 1, user: "alice", body: &body, ..Request::default() };
        let start = std::time::Instant::now();
        world.caller.request(&invite);
        world.bystander.is_served(20, QUICK);
        let arrived =
            world.callee.receive(|text| text.starts_with("INVITE ") && text.contains(&id)).expect("it goes on");
        let took = start.elapsed();
        assert!(took < TIMEOUT + QUICK, "{took:?}");
        assert_eq!(support::phone::body(&arrived), body);
        world.callee.accept(&arrived, "");
        assert_eq!(status(&world.caller.final_reply(&invite)), 200);
        assert!(logged("relay inactive", round), "{}", node.output());
        // One wait is enough: the next call does not ask it.
        let next = world.call(&format!("next{round}"));
        assert_eq!(next.offered, body);
        next.end();
        proxy.set(Fault::None);
        assert!(until(RECOVERY, || logged("relay active", round)).is_some(), "{}", node.output());
    }
    let last = world.call("last");
    assert!(is_relayed(&last.offered));
    last.end();
    first.end();
    world.ends_well(node);
}

#[test]
fn a_full_relay_takes_no_more_calls_and_keeps_those_it_has() {
    let relay = Rtpengine::with_options(&["--max-sessions=1"]).unwrap();
    let world = World::new(MEDIA, relay.port());
    let node = world.start();
    let mut first = world.call("first");
    assert!(is_relayed(&first.offered), "{}", node.output());
    let second = world.call("second");
    assert_eq!(second.offered, sdp(4000));
    assert!(
        node.output().contains("not relayed: all relays are full: Parallel session limit reached"),
        "{}",
        node.output()
    );
    assert!(!node.output().contains("relay inactive"), "a full relay is no dead one: {}", node.output());
    first.renew(&sdp(4000));
    assert!(is_relayed(&first.offered));
    second.end();
    first.end();
    let mut number = 0;
    let has_room = until(RECOVERY, || {
        number += 1;
        let call = world.call(&format!("room{number}"));
        let is_relayed = is_relayed(&call.offered);
        call.end();
        is_relayed
    });
    assert!(has_room.is_some(), "{}", node.output());
    world.ends_well(node);
}
