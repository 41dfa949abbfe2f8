//! The three server processes: their folders, databases, start, kill and management.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value as Json;
use tandem_admin::client::{Target, call_blocking};
use tandem_module::db::{Db, DbDriver, DbRows, DbValue, Statement};
use tandem_module::mi::MiParams;
use tandem_sip::digest::{Algorithm, ha1};
use tandem_store::sqlite::SqliteDriver;

const SCRIPT: &str = include_str!("../../../../examples/talking-cluster/opensips.cfg");
const NODES: [&str; 3] = [
    include_str!("../../../../examples/talking-cluster/node1.cfg"),
    include_str!("../../../../examples/talking-cluster/node2.cfg"),
    include_str!("../../../../examples/talking-cluster/node3.cfg"),
];
/// What the examples call their folder.
const EXAMPLE_DIR: &str = "/tmp/tandem-talking-cluster";
/// The loopback network of the examples; the demonstration takes the first free one from here on.
const EXAMPLE_NET: &str = "127.0.5.";
/// The realm of all accounts.
pub(super) const REALM: &str = "tandem.example";
/// Accounts and passwords.
pub(super) const ACCOUNTS: [(&str, &str); 6] = [
    ("alice", "wonderland"),
    ("bob", "builder"),
    ("dave", "swimmer"),
    ("erin", "runner"),
    ("conf-9000", "focus"),
    ("victim", "secret"),
];
/// How long a management command may take.
const MI_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// The processes and where they live.
pub(super) struct Cluster {
    dir: PathBuf,
    net: u8,
    nodes: [Option<Child>; 3],
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    /// Makes folders, configuration and databases; starts nothing.
    pub(super) fn prepare(dir: Option<&Path>) -> anyhow::Result<Cluster> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => std::env::temp_dir().join(format!("tandem-demo-{}", std::process::id())),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let cluster = Cluster { net: free_net()?, dir, nodes: [None, None, None], runtime };
        for number in 1..=3 {
            cluster.write_config(number)?;
        }
        cluster.create_databases()?;
        Ok(cluster)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Address of node 1, 2 or 3, or of a user agent (10 and up).
    pub(super) fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.net, host)
    }

    /// SIP address of a node.
    pub(super) fn sip(&self, number: u8) -> SocketAddr {
        SocketAddr::from((self.ip(number), 5060))
    }

    fn folder(&self, number: u8) -> PathBuf {
        self.dir.join(format!("node{number}"))
    }

    fn write_config(&self, number: u8) -> anyhow::Result<()> {
        let folder = self.folder(number);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let own = NODES.get(usize::from(number) - 1).copied().unwrap_or_default();
        let own = own.replace(EXAMPLE_NET, &format!("127.0.{}.", self.net));
        let own = own.replace(EXAMPLE_DIR, &self.dir.display().to_string());
        fs::write(folder.join("opensips.cfg"), SCRIPT)?;
        fs::write(folder.join("node.cfg"), own)?;
        Ok(())
    }

    fn create_databases(&self) -> anyhow::Result<()> {
        let driver = SqliteDriver::new(self.runtime.handle().clone());
        let subscribers = driver.create(&self.url("subscribers"))?;
        let accounting = driver.create(&self.url("accounting"))?;
        self.runtime.block_on(async {
            tandem_store::schema::create(subscribers.as_ref(), &["version", "subscriber"]).await?;
            for (user, password) in ACCOUNTS {
                let hash = ha1(Algorithm::Md5, user.as_bytes(), REALM.as_bytes(), password.as_bytes());
                let values = vec![
                    ("username".to_owned(), DbValue::from(user)),
                    ("domain".to_owned(), DbValue::from(REALM)),
                    ("password".to_owned(), DbValue::from("")),
                    ("ha1".to_owned(), DbValue::text(hash.as_bytes())),
                ];
                subscribers.run(Statement::Insert { table: "subscriber".to_owned(), values }).await?;
            }
            let table = b"CREATE TABLE cdr (callid TEXT NOT NULL UNIQUE, caller TEXT, callee TEXT, begin INTEGER, duration INTEGER)";
            accounting.run(Statement::Raw(table.to_vec())).await?;
            anyhow::Ok(())
        })
    }

    fn url(&self, name: &str) -> String {
        format!("sqlite://{}", self.dir.join(format!("{name}.sqlite")).display())
    }

    /// The rows of the accounting database.
    pub(super) fn call_records(&self) -> anyhow::Result<DbRows> {
        let driver = SqliteDriver::new(self.runtime.handle().clone());
        let db: std::sync::Arc<dyn Db> = driver.open(&self.url("accounting"))?;
        let statement = Statement::Select {
            table: "cdr".to_owned(),
            columns: ["caller", "callee", "duration"].map(str::to_owned).to_vec(),
            keys: Vec::new(),
            order: Some("begin".to_owned()),
            limit: None,
        };
        Ok(self.runtime.block_on(db.run(statement))?)
    }

    /// Starts a node as a process of this very program.
    pub(super) fn start(&mut self, number: u8) -> anyhow::Result<()> {
        let folder = self.folder(number);
        let log = File::options().create(true).append(true).open(folder.join("log"))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["-f", "opensips.cfg", "-F", "-E"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a node")?;
        if let Some(place) = self.nodes.get_mut(usize::from(number) - 1) {
            *place = Some(child);
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, number: u8) -> anyhow::Result<()> {
        let child = self.nodes.get_mut(usize::from(number) - 1).and_then(Option::take);
        let mut child = child.ok_or_else(|| anyhow!("node {number} is not running"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Runs a management command on a node.
    pub(super) fn mi(&self, number: u8, command: &str, params: &[(&str, Json)]) -> anyhow::Result<Json> {
        let target: Target = format!("http://{}:8888/mi", self.ip(number)).parse()?;
        let params = if params.is_empty() {
            MiParams::None
        } else {
            MiParams::Named(params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
        };
        Ok(call_blocking(&target, command, params, MI_TIMEOUT)?)
    }

    /// What node `number` says of its links: (node, state).
    pub(super) fn links(&self, number: u8) -> Vec<(i64, String)> {
        let Ok(list) = self.mi(number, "clusterer:list", &[]) else { return Vec::new() };
        let nodes = list.pointer("/Clusters/0/Nodes").and_then(Json::as_array).cloned().unwrap_or_default();
        let row = |node: &Json| {
            let state = node.get("link_state")?.as_str()?.to_owned();
            Some((node.get("node_id")?.as_i64()?, state))
        };
        nodes.iter().filter_map(row).collect()
    }

    /// Whether all nodes see each other up.
    pub(super) fn all_up(&self) -> bool {
        (1..=3).all(|number| {
            let links = self.links(number);
            links.len() == 2 && links.iter().all(|(_, state)| state == "Up")
        })
    }

    /// What a node has in its cache.
    pub(super) fn cached(&self, number: u8, key: &str) -> Option<String> {
        let result = self.mi(number, "cache_fetch", &[("system", "local".into()), ("attr", key.into())]).ok()?;
        result.get("value").or_else(|| result.get("Value")).and_then(Json::as_str).map(str::to_owned)
    }

    /// Whether a node's log holds a text.
    pub(super) fn has_logged(&self, number: u8, text: &str) -> bool {
        fs::read_to_string(self.folder(number).join("log")).is_ok_and(|log| log.contains(text))
    }

    /// Fails when a node has ended by itself.
    pub(super) fn expect_alive(&mut self) -> anyhow::Result<()> {
        for (at, place) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = place
                && let Some(status) = child.try_wait()?
            {
                bail!("node {} ended: {status}", at + 1);
            }
        }
        Ok(())
    }

    /// Leaves the nodes running and says what can be tried.
    pub(super) fn keep(mut self) {
        let pids: Vec<String> = self.nodes.iter().flatten().map(|child| child.id().to_string()).collect();
        println!("\nThe cluster stays up. Try:");
        for number in 1..=3 {
            println!("  tandem ctl --url http://{}:8888/mi clusterer:list", self.ip(number));
        }
        println!("  point a softphone at udp:{} as alice / wonderland, realm {REALM}", self.sip(1));
        println!("  logs: {}/node*/log", self.dir.display());
        println!("  stop it: kill {}", pids.join(" "));
        // Dropping a Child leaves its process alone.
        self.nodes = [None, None, None];
    }

    /// Ends the nodes and removes their folder.
    pub(super) fn stop(mut self) {
        self.end_nodes();
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Ends the nodes and prints the end of their logs.
    pub(super) fn stop_and_show_logs(mut self) {
        self.end_nodes();
        for number in 1..=3 {
            println!("\n--- end of the log of node {number} ({}) ---", self.folder(number).join("log").display());
            if let Ok(log) = fs::read_to_string(self.folder(number).join("log")) {
                let lines: Vec<&str> = log.lines().collect();
                for line in lines.iter().skip(lines.len().saturating_sub(20)) {
                    println!("{line}");
                }
            }
        }
    }

    fn end_nodes(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.id().cast_signed()),
                nix::sys::signal::Signal::SIGTERM,
            );
        }
        let end = Instant::now() + Duration::from_secs(8);
        for child in self.nodes.iter_mut().flatten() {
            while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < end {
                std::thread::park_timeout(LOOK);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        self.nodes = [None, None, None];
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_nodes();
    }
}

/// A loopback network whose addresses nobody listens on.
fn free_net() -> anyhow::Result<u8> {
    let is_free = |net: u8| {
        (1..=3).all(|host| {
            let ip = Ipv4Addr::new(127, 0, net, host);
            UdpSocket::bind((ip, 5060)).is_ok()
                && [5060, 5555, 8888].iter().all(|port| TcpListener::bind((ip, *port)).is_ok())
        })
    };
    (5..=60)
        .find(|net| is_free(*net))
        .ok_or_else(|| anyhow!("ports 5060, 5555 and 8888 are taken on all of 127.0.5.x to 127.0.60.x"))
}

/// Looks until `holds` or the time is over; the time it took, if it held.
pub(super) fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if holds() {
            return Some(start.elapsed());
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::park_timeout(LOOK);
    }
}
