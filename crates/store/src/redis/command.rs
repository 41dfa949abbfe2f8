//! What the store has to know of single commands: which key decides about the server, what may be repeated, what cannot run
//! on a shared connection; and answers as rows. Sends nothing.

use redis::Cmd;
use tandem_script::value::{Text, Value as ScriptValue};

/// Slots of a cluster.
pub(super) const SLOTS: usize = 16384;
/// Values that one raw query may give to a script.
pub(super) const ROWS_MAX: usize = 100_000;
/// Depth of nested arrays that are taken apart.
const DEPTH_MAX: usize = 8;

/// Commands that would change or block the connection that all calls share.
const NOT_SHARED: &[&str] = &[
    "AUTH",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PSYNC",
    "PUNSUBSCRIBE",
    "QUIT",
    "REPLICAOF",
    "RESET",
    "SELECT",
    "SHUTDOWN",
    "SLAVEOF",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WAIT",
    "WAITAOF",
    "WATCH",
];

/// Commands with the same outcome when they are run twice; after a broken connection these are sent again.
const REPEATABLE: &[&str] = &[
    "DBSIZE",
    "DEL",
    "ECHO",
    "EXISTS",
    "EXPIRE",
    "EXPIREAT",
    "GET",
    "GETRANGE",
    "HDEL",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HMSET",
    "HSCAN",
    "HSET",
    "HVALS",
    "INFO",
    "KEYS",
    "LINDEX",
    "LLEN",
    "LRANGE",
    "MGET",
    "MSET",
    "PERSIST",
    "PEXPIRE",
    "PING",
    "PTTL",
    "SADD",
    "SCAN",
    "SCARD",
    "SDIFF",
    "SETEX",
    "SINTER",
    "SISMEMBER",
    "SMEMBERS",
    "SREM",
    "SSCAN",
    "STRLEN",
    "SUNION",
    "TIME",
    "TTL",
    "TYPE",
    "UNLINK",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZSCORE",
];

/// Commands that belong to no key.
const KEYLESS: &[&str] = &[
    "ACL",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "DBSIZE",
    "ECHO",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LATENCY",
    "PING",
    "PUBLISH",
    "RANDOMKEY",
    "ROLE",
    "SAVE",
    "SCAN",
    "SCRIPT",
    "SLOWLOG",
    "TIME",
];

/// Commands whose key is the second word behind the name.
const SECOND: &[&str] = &["BITOP", "DEBUG", "MEMORY", "OBJECT", "XGROUP", "XINFO"];
/// Commands whose first key is behind a script and a count.
const SCRIPTS: &[&str] = &["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"];

fn name_of(words: &[Vec<u8>]) -> String {
    words.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).unwrap_or_default()
}

/// A command out of words; `Err` says why it cannot be run.
pub(super) fn command(words: &[Vec<u8>]) -> Result<Cmd, String> {
    let name = name_of(words);
    if name.is_empty() {
        return Err("the query is empty".to_owned());
    }
    if NOT_SHARED.contains(&name.as_str()) {
        return Err(format!("{name} changes or blocks the connection that all calls share; it cannot be used"));
    }
    let mut command = Cmd::new();
    for word in words {
        command.arg(word.as_slice());
    }
    Ok(command)
}

/// Whether a command may be sent again after a broken connection.
pub(super) fn is_repeatable(words: &[Vec<u8>]) -> bool {
    let name = name_of(words);
    // SET is, unless its outcome depends on what was there.
    REPEATABLE.contains(&name.as_str()) || (name == "SET" && words.len() == 3)
}

/// The slot of a command in a cluster; `None` when any server will do.
pub(super) fn slot(words: &[Vec<u8>]) -> Option<u16> {
    let name = name_of(words);
    let at = if KEYLESS.contains(&name.as_str()) {
        return None;
    } else if SECOND.contains(&name.as_str()) {
        2
    } else if SCRIPTS.contains(&name.as_str()) {
        3
    } else {
        1
    };
    words.get(at).map(|key| key_slot(key))
}

/// The slot of a key (Redis cluster specification): CRC16 of the key, or of what stands between its first braces.
pub(super) fn key_slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS as u16
}

/// An answer as rows of one column, as scripts get it (OpenSIPS: a status is no row, each element of an array is one).
pub(super) fn rows(value: redis::Value) -> Result<Vec<Vec<ScriptValue>>, String> {
    let mut rows = Vec::new();
    match value {
        redis::Value::Okay | redis::Value::SimpleString(_) => {}
        value => push_rows(&mut rows, value, 0)?,
    }
    Ok(rows)
}

fn push_rows(rows: &mut Vec<Vec<ScriptValue>>, value: redis::Value, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("the answer is nested too deeply".to_owned());
    }
    if rows.len() >= ROWS_MAX {
        return Err(format!("the answer has more than {ROWS_MAX} values"));
    }
    let row = match value {
        redis::Value::Nil => ScriptValue::Null,
        redis::Value::Int(int) => match i32::try_from(int) {
            Ok(int) => ScriptValue::Int(int),
            Err(_) => ScriptValue::Text(Text::from(int.to_string())),
        },
        redis::Value::BulkString(bytes) => ScriptValue::Text(Text::from(bytes)),
        redis::Value::SimpleString(text) => ScriptValue::Text(Text::from(text)),
        redis::Value::VerbatimString { text, .. } => ScriptValue::Text(Text::from(text)),
        redis::Value::Okay => ScriptValue::Text(Text::from("OK")),
        redis::Value::Double(double) => ScriptValue::Text(Text::from(double.to_string())),
        redis::Value::Boolean(is_true) => ScriptValue::Int(i32::from(is_true)),
        redis::Value::Array(items) | redis::Value::Set(items) => {
            return items.into_iter().try_for_each(|item| push_rows(rows, item, depth + 1));
        }
        redis::Value::Map(pairs) => {
            return pairs.into_iter().try_for_each(|(key, value)| {
                push_rows(rows, key, depth + 1)?;
                push_rows(rows, value, depth + 1)
            });
        }
        redis::Value::ServerError(error) => return Err(error.to_string()),
        _ => return Err("an answer of unknown kind".to_owned()),
    };
    rows.push(vec![row]);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{command, is_repeatable, key_slot, rows, slot};
    use redis::Value;
    use tandem_script::value::Value as ScriptValue;

    fn words(text: &str) -> Vec<Vec<u8>> {
        text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn keys_have_the_slots_of_the_specification() {
        assert_eq!(key_slot(b"123456789"), 0x31c3);
        assert_eq!(key_slot(b"foo"), 12182);
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"user1000"));
        assert_ne!(key_slot(b"foo{}{bar}"), key_slot(b"bar"));
        assert_eq!(key_slot(b"foo{{bar}}zap"), key_slot(b"{bar"));
        assert_eq!(slot(&words("hget foo f")), Some(12182));
        assert_eq!(slot(&words("EVAL return 1 foo")), Some(12182));
        assert_eq!(slot(&words("OBJECT ENCODING foo")), Some(12182));
        assert_eq!(slot(&words("PING foo")), None);
        assert_eq!(slot(&words("GET")), None);
    }

    #[test]
    fn commands_that_would_disturb_others_are_refused() {
        for text in ["subscribe x", "MULTI", "Select 2", "BLPOP l 0"] {
            assert!(command(&words(text)).is_err(), "{text}");
        }
        assert!(command(&[]).is_err() && command(&[Vec::new()]).is_err());
        assert!(command(&words("HSET a b c")).is_ok());
        assert!(is_repeatable(&words("hset a b c")) && is_repeatable(&words("SET a b")));
        assert!(
            !is_repeatable(&words("INCR a")) && !is_repeatable(&words("SET a b NX")) && !is_repeatable(&words("X y"))
        );
    }

    #[test]
    fn answers_become_rows_of_one_column() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert!(rows(Value::Okay).unwrap().is_empty());
        assert_eq!(rows(Value::Int(1 << 40)).unwrap(), [[ScriptValue::text(b"1099511627776")]]);
        let nested = Value::Array(vec![bulk("0"), Value::Array(vec![bulk("k"), Value::Nil, Value::Int(7)])]);
        let flat = rows(nested).unwrap();
        assert_eq!(flat.len(), 4);
        assert_eq!(flat[3], [ScriptValue::Int(7)]);
        let mut deep = Value::Int(1);
        for _ in 0..20 {
            deep = Value::Array(vec![deep]);
        }
        assert!(rows(deep).is_err());
        assert!(rows(Value::Array(vec![Value::Int(1); 100_001])).is_err());
    }
}
