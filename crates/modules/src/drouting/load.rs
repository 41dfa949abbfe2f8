//! Reads the tables of partitions into memory: beside the old ones, which stay in use until the new ones are complete.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use md5::{Digest, Md5};
use tandem_module::context::write_log;
use tandem_module::db::{DbValue, Statement};
use tandem_module::node::NodeRef;
use tandem_module::transport::NameQuery;
use tandem_script::vm::LogLevel;

use super::Drouting;
use super::config::{Avps, Config, Origin, SocketFilter};
use super::data::{Carrier, Gateway, Tables};
use super::partition::Partition;
use super::{blacklists, rows, sharing};
use crate::core::db_load::{self, Pages, is_table_name, text_of};

/// Partitions of one process.
const PARTITIONS_MAX: u32 = 256;
/// Rows of the gateway and of the carrier table.
const GATEWAYS_MAX: usize = 100_000;
/// Rows of all rule tables of a partition together.
const RULES_MAX: usize = 20_000_000;
/// Reloads of one partition that may wait for each other.
const RELOADS_MAX: usize = 8;
/// Broken rows of one table that are logged one by one.
const COMPLAINTS_MAX: usize = 20;
/// Rule tables of one partition.
const RULE_TABLES_MAX: usize = 256;

/// Versions of the tables: that of 2.4 and that of 4.0.
const GATEWAY_VERSIONS: [i64; 1] = [6];
const CARRIER_VERSIONS: [i64; 2] = [2, 3];
const RULE_VERSIONS: [i64; 2] = [3, 4];
const GROUP_VERSIONS: [i64; 1] = [2];
const PARTITION_VERSIONS: [i64; 1] = [1];

/// Why a reload was not done.
pub(super) enum Refused {
    /// Another one runs.
    Busy,
    /// As said.
    Failed(String),
}

/// Makes the partitions and reads their tables.
pub(super) async fn start(node: NodeRef, own: &'static Drouting) -> Result<(), String> {
    let origins = match &own.config.default {
        Some(origin) if !own.config.uses_partitions => vec![origin.clone()],
        _ => partitions(node, &own.config).await?,
    };
    for origin in origins {
        let db = node.db.open(&origin.url).map_err(|error| format!("partition '{}': {error}", origin.name))?;
        let partition = Arc::new(Partition::new(origin, db, own.config.is_persistent));
        own.partitions.write().push(partition.clone());
        read(node, &own.config, &partition, false).await?;
        in_place(node, own, &partition, false);
    }
    Ok(())
}

/// Reads the tables of one partition again. Reloads of one partition follow each other.
pub(super) async fn reload(
    node: NodeRef,
    own: &'static Drouting,
    partition: &Arc<Partition>,
    inherits: bool,
) -> Result<(), Refused> {
    let others = partition.reloads.fetch_add(1, Ordering::AcqRel);
    let result = if (others > 0 && own.config.refuses_concurrent_reload) || others >= RELOADS_MAX {
        Err(Refused::Busy)
    } else {
        let _one = partition.reloading.lock().await;
        let done = read(node, &own.config, partition, inherits).await;
        if done.is_ok() {
            in_place(node, own, partition, true);
        }
        done.map_err(Refused::Failed)
    };
    partition.reloads.fetch_sub(1, Ordering::AcqRel);
    result
}

/// New tables are in place.
fn in_place(node: NodeRef, own: &Drouting, partition: &Arc<Partition>, is_reload: bool) {
    blacklists::fill(node, own, partition);
    sharing::tables_read(node, own, partition, is_reload);
}

/// Rows of `db_partitions_table`.
async fn partitions(node: NodeRef, config: &Config) -> Result<Vec<Origin>, String> {
    const COLUMNS: [&str; 13] = [
        "partition_name",
        "db_url",
        "drd_table",
        "drr_table",
        "drg_table",
        "drc_table",
        "ruri_avp",
        "gw_id_avp",
        "gw_priprefix_avp",
        "gw_sock_avp",
        "rule_id_avp",
        "rule_prefix_avp",
        "carrier_id_avp",
    ];
    let db = node.db.open(&config.partitions_url).map_err(|error| error.to_string())?;
    let table = &config.partitions_table;
    db_load::version(&*db, table, &PARTITION_VERSIONS).await?;
    let rows = db_load::read_all(&*db, table, &COLUMNS, None, PARTITIONS_MAX).await?;
    let mut all: Vec<Origin> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let text = |column: usize| {
            let text = text_of(row, column).map(|text| String::from_utf8_lossy(text.trim_ascii()).into_owned());
            text.filter(|text| !text.is_empty())
        };
        let complain = |what: String| {
            let text = format!("drouting: row {} of table '{table}' is left out: {what}", at + 1);
            write_log(LogLevel::Error, &text);
        };
        let (Some(name), Some(url)) = (text(0), text(1)) else {
            complain("partition_name or db_url is empty".into());
            continue;
        };
        if name == "*" || name.contains(':') || all.iter().any(|other| other.name == name) {
            complain(format!("the name '{name}' cannot be used, or stands twice"));
            continue;
        }
        let avp = |wanted: &str| text(COLUMNS.iter().position(|column| *column == wanted)?);
        let avps = match Avps::read(avp, &name) {
            Ok(avps) => avps,
            Err(column) => {
                complain(format!("{column} is no AVP"));
                continue;
            }
        };
        all.push(Origin {
            name,
            url,
            gateways: text(2).unwrap_or_else(|| "dr_gateways".into()),
            rules: text(3).unwrap_or_else(|| "dr_rules".into()),
            groups: text(4).unwrap_or_else(|| "dr_groups".into()),
            carriers: text(5).unwrap_or_else(|| "dr_carriers".into()),
            avps,
        });
    }
    Ok(all)
}

/// Complaints about rows of one table.
struct Complaints<'a> {
    table: &'a str,
    count: usize,
}

impl Complaints<'_> {
    fn left_out(&mut self, key: &str, what: &str) {
        self.count += 1;
        if self.count <= COMPLAINTS_MAX {
            let text = format!("drouting: row {key} of table '{}' is left out: {what}", self.table);
            write_log(LogLevel::Warning, &text);
        }
    }

    fn unknown(&self, key: &str, names: &[String]) {
        if !names.is_empty() && self.count < COMPLAINTS_MAX {
            let text = format!(
                "drouting: row {key} of table '{}' names what there is not, which is ignored: {}",
                self.table,
                names.join(", ")
            );
            write_log(LogLevel::Warning, &text);
        }
    }

    fn end(&self) {
        if self.count > COMPLAINTS_MAX {
            let text = format!("drouting: {} rows of table '{}' are left out", self.count, self.table);
            write_log(LogLevel::Warning, &text);
        }
    }
}

fn key_of(row: &[DbValue]) -> String {
    String::from_utf8_lossy(&text_of(row, 0).unwrap_or_default()).into_owned()
}

struct Builder<'a> {
    config: &'a Config,
    partition: &'a Partition,
    tables: Tables,
    checksum: Option<Md5>,
    discarded: [usize; 3],
}

impl Builder<'_> {
    fn digest(checksum: &mut Option<Md5>, row: &[DbValue]) {
        let Some(checksum) = checksum else { return };
        for column in row {
            checksum.update(column.to_text().unwrap_or_default());
            checksum.update([0xff]);
        }
    }

    /// The gateways, and the hosts that have to be looked up.
    async fn gateways(&mut self, node: NodeRef) -> Result<Vec<(u32, NameQuery)>, String> {
        let table = &self.partition.origin.gateways;
        let db = &*self.partition.db;
        db_load::version(db, table, &GATEWAY_VERSIONS).await?;
        let pages = Pages { table, columns: &rows::GATEWAY_COLUMNS, rows_max: GATEWAYS_MAX };
        let mut complaints = Complaints { table, count: 0 };
        let (config, tables, checksum) = (self.config, &mut self.tables, &mut self.checksum);
        let mut names = Vec::new();
        pages
            .read(db, |row| {
                // The state changes without being a change of the data.
                Self::digest(checksum, row.get(..9).unwrap_or_default());
                let key = key_of(&row);
                let (gateway, host) = match rows::gateway(config, &row).and_then(|one| filtered(node, config, one)) {
                    Ok(found) => found,
                    Err(error) => return complaints.left_out(&key, &error),
                };
                let (at, query) = (tables.gateways.len() as u32, name_query(&gateway, &host));
                if !tables.add_gateway(gateway) {
                    return complaints.left_out(&key, "there is a gateway of that ID already");
                }
                match rows::host_ip(&host) {
                    Some(ip) => tables.add_addresses(at, vec![ip]),
                    None => names.push((at, query)),
                }
            })
            .await?;
        complaints.end();
        self.discarded[0] = complaints.count;
        Ok(if config.forces_dns { names } else { Vec::new() })
    }

    async fn carriers(&mut self) -> Result<(), String> {
        let table = &self.partition.origin.carriers;
        let db = &*self.partition.db;
        let version = db_load::version(db, table, &CARRIER_VERSIONS).await?;
        let columns: &[&str] = &rows::CARRIER_COLUMNS;
        let columns = if version >= 3 { columns } else { columns.get(..6).unwrap_or(columns) };
        let pages = Pages { table, columns, rows_max: GATEWAYS_MAX };
        let mut complaints = Complaints { table, count: 0 };
        let (config, tables, checksum) = (self.config, &mut self.tables, &mut self.checksum);
        pages
            .read(db, |row| {
                Self::digest(checksum, row.get(..5).unwrap_or_default());
                let key = key_of(&row);
                let added: Result<Carrier, String> = rows::carrier(config, tables, &row).map(|(carrier, unknown)| {
                    complaints.unknown(&key, &unknown);
                    carrier
                });
                match added.map(|carrier| tables.add_carrier(carrier)) {
                    Ok(true) => {}
                    Ok(false) => complaints.left_out(&key, "there is a carrier of that ID already"),
                    Err(error) => complaints.left_out(&key, &error),
                }
            })
            .await?;
        complaints.end();
        self.discarded[1] = complaints.count;
        Ok(())
    }

    /// The rule tables: one, or those that a query gives.
    async fn rule_tables(&self) -> Result<Vec<String>, String> {
        let name = &self.partition.origin.rules;
        let Some((_, query)) = self.config.rule_queries.iter().find(|(token, _)| token == name) else {
            return Ok(vec![name.clone()]);
        };
        let db = &*self.partition.db;
        let rows = db.run(Statement::Raw(query.clone().into_bytes())).await;
        let rows = rows.map_err(|error| format!("{}: rule_tables_query '{name}': {error}", db.name()))?.rows;
        let names: Vec<Vec<u8>> = rows.iter().filter_map(|row| text_of(row, 0)).collect();
        if names.is_empty() || names.len() > RULE_TABLES_MAX || !names.iter().all(|name| is_table_name(name)) {
            return Err(format!(
                "rule_tables_query '{name}' must give 1 to {RULE_TABLES_MAX} names of tables, it gave {}",
                names.len()
            ));
        }
        Ok(names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    async fn rules(&mut self, table: &str) -> Result<(), String> {
        let db = &*self.partition.db;
        let version = db_load::version(db, table, &RULE_VERSIONS).await?;
        let columns: &[&str] = &rows::RULE_COLUMNS;
        let columns = if version >= 4 { columns } else { columns.get(..8).unwrap_or(columns) };
        let rows_max = RULES_MAX.saturating_sub(self.tables.rules.len());
        let pages = Pages { table, columns, rows_max };
        let mut complaints = Complaints { table, count: 0 };
        let (config, tables, checksum) = (self.config, &mut self.tables, &mut self.checksum);
        pages
            .read(db, |row| {
                Self::digest(checksum, &row);
                match rows::rule(config, tables, &row) {
                    Ok(found) => {
                        complaints.unknown(&key_of(&row), &found.unknown);
                        tables.add_rule(found.rule, &found.groups, &found.prefix);
                    }
                    Err(error) => complaints.left_out(&key_of(&row), &error),
                }
            })
            .await?;
        complaints.end();
        self.discarded[2] += complaints.count;
        Ok(())
    }
}

/// What `gw_socket_filter_mode` leaves of a gateway.
fn filtered(node: NodeRef, config: &Config, one: (Gateway, Vec<u8>)) -> Result<(Gateway, Vec<u8>), String> {
    let (mut gateway, host) = one;
    let is_ours = gateway.socket.as_ref().is_some_and(|socket| node.socket_named(socket).is_some());
    match config.socket_filter {
        SocketFilter::MatchedOnly if !is_ours => Err("its socket is none of our listeners".into()),
        SocketFilter::Ignore => {
            gateway.socket = None;
            Ok((gateway, host))
        }
        _ => {
            if let Some(socket) = gateway.socket.take_if(|_| !is_ours) {
                let text = format!(
                    "drouting: gateway {}: the socket '{}' is none of our listeners, it is ignored",
                    gateway.id.to_str(),
                    socket.to_str()
                );
                write_log(LogLevel::Warning, &text);
            }
            Ok((gateway, host))
        }
    }
}

fn name_query(gateway: &Gateway, host: &[u8]) -> NameQuery {
    NameQuery {
        host: String::from_utf8_lossy(host).into_owned(),
        port: Some(gateway.port),
        proto: Some(gateway.proto),
        is_secure: gateway.is_secure,
    }
}

/// Reads everything of a partition and puts it in place.
async fn read(node: NodeRef, config: &Config, partition: &Arc<Partition>, inherits: bool) -> Result<(), String> {
    let checksum = config.has_checksum.then(Md5::new);
    let mut builder = Builder { config, partition, tables: Tables::default(), checksum, discarded: [0; 3] };
    db_load::version(&*partition.db, &partition.origin.groups, &GROUP_VERSIONS).await?;
    let names = builder.gateways(node).await?;
    for (at, query) in names {
        let host = query.host.clone();
        let found = match node.resolver() {
            Some(resolver) => resolver.lookup(query).await,
            None => Vec::new(),
        };
        let mut ips: Vec<IpAddr> = found.into_iter().map(|(_, address)| address.ip()).collect();
        ips.dedup();
        if ips.is_empty() {
            let text = format!(
                "drouting: the gateway host '{host}' has no address now; calls go there, but none is known to come from there"
            );
            write_log(LogLevel::Warning, &text);
        }
        builder.tables.add_addresses(at, ips);
    }
    builder.carriers().await?;
    for table in builder.rule_tables().await? {
        builder.rules(&table).await?;
    }
    let Builder { mut tables, checksum, discarded, .. } = builder;
    tables.checksum = checksum.map(|checksum| hex::encode(checksum.finalize()));
    let text = format!(
        "drouting: partition {}: {} gateways loaded ({} discarded), {} carriers loaded ({} discarded), {} rules loaded ({} discarded)",
        partition.name,
        tables.gateways.len(),
        discarded[0],
        tables.carriers.len(),
        discarded[1],
        tables.rules.len(),
        discarded[2]
    );
    write_log(LogLevel::Info, &text);
    partition.swap(tables, inherits);
    Ok(())
}
