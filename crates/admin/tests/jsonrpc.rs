//! JSON-RPC: answers, refusals, batches and limits.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{commands, parsed, rpc};
use serde_json::json;
use tandem_admin::{JsonRpc, JsonRpcLimits};

async fn text(rpc: &JsonRpc, body: &str) -> Option<String> {
    rpc.handle(body.as_bytes()).await.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn answers_have_the_members_in_the_order_of_opensips() {
    let rpc = rpc();
    let table = [
        (
            r#"{"jsonrpc":"2.0","method":"echo","params":["a",2],"id":1}"#,
            r#"{"jsonrpc":"2.0","result":{"text":"a","times":2},"id":1}"#,
        ),
        (
            r#"{"id":"x","params":{"text":"b"},"method":"echo","jsonrpc":"2.0"}"#,
            r#"{"jsonrpc":"2.0","result":{"text":"b","times":null},"id":"x"}"#,
        ),
        (r#"{"jsonrpc":"2.0","method":"later","id":null}"#, r#"{"jsonrpc":"2.0","result":"OK","id":null}"#),
        (r#"{"jsonrpc":"2.0","method":"count","params":[],"id":1.5}"#, r#"{"jsonrpc":"2.0","result":1,"id":1.5}"#),
        (
            r#"{"jsonrpc":"2.0","method":"refuse","id":3}"#,
            r#"{"jsonrpc":"2.0","error":{"code":404,"message":"Nothing here"},"id":3}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"nothing","id":3}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":3}"#,
        ),
    ];
    for (request, answer) in table {
        assert_eq!(text(&rpc, request).await.as_deref(), Some(answer), "{request}");
    }
}

#[tokio::test]
async fn malformed_requests_get_the_code_that_fits() {
    let rpc = rpc();
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let deep_in_text = format!(r#"{{"jsonrpc":"2.0","method":"echo","params":["{}"],"id":1}}"#, "[".repeat(100));
    let table: [(&[u8], Option<i64>); 24] = [
        (b"", Some(-32700)),
        (b"nonsense", Some(-32700)),
        (b"{", Some(-32700)),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"params\":[\"\xff\"],\"id\":1}", Some(-32700)),
        (br#"{"jsonrpc":"2.0"} trailing"#, Some(-32700)),
        (deep.as_bytes(), Some(-32700)),
        (b"[]", Some(-32600)),
        (b"1", Some(-32600)),
        (b"null", Some(-32600)),
        (b"\"text\"", Some(-32600)),
        (b"{}", Some(-32600)),
        (br#"{"jsonrpc":"1.0","method":"count","id":1}"#, Some(-32600)),
        (br#"{"jsonrpc":2.0,"method":"count","id":1}"#, Some(-32600)),
        (br#"{"method":"count","id":1}"#, Some(-32600)),
        (br#"{"jsonrpc":"2.0","method":7,"id":1}"#, Some(-32600)),
        (br#"{"jsonrpc":"2.0","id":1}"#, Some(-32600)),
        (br#"{"jsonrpc":"2.0","method":"count","id":{}}"#, Some(-32600)),
        (br#"{"jsonrpc":"2.0","method":"count","params":"x","id":1}"#, Some(-32600)),
        (br#"{"jsonrpc":"2.0","method":"echo","id":1}"#, Some(-32602)),
        (br#"{"jsonrpc":"2.0","method":"echo","params":["a",1,2],"id":1}"#, Some(-32602)),
        (br#"{"jsonrpc":"2.0","method":"echo","params":{"text":"a","x":1},"id":1}"#, Some(-32602)),
        (br#"{"jsonrpc":"2.0","method":"echo","params":[["a"]],"id":1}"#, Some(-32602)),
        (br#"{"jsonrpc":"2.0","method":"panic","id":1}"#, Some(-32603)),
        (deep_in_text.as_bytes(), None),
    ];
    for (request, code) in table {
        let answer = parsed(&rpc.handle(request).await.unwrap());
        let shown = String::from_utf8_lossy(request);
        assert_eq!(answer["error"]["code"].as_i64(), code, "{shown}");
        assert_eq!(answer["jsonrpc"], "2.0", "{shown}");
        assert!(answer.get("id").is_some(), "{shown}");
    }
}

#[tokio::test]
async fn notifications_run_and_are_not_answered() {
    let commands = commands();
    let rpc = JsonRpc::new(commands.mi);
    assert_eq!(text(&rpc, r#"{"jsonrpc":"2.0","method":"count"}"#).await, None);
    assert_eq!(text(&rpc, r#"{"jsonrpc":"2.0","method":"nothing"}"#).await, None);
    assert_eq!(
        text(&rpc, r#"[{"jsonrpc":"2.0","method":"count"},{"jsonrpc":"2.0","method":"count","params":[5]}]"#).await,
        None
    );
    assert_eq!(commands.count.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn a_batch_runs_in_order_and_keeps_bad_requests_apart() {
    let rpc = rpc();
    let batch = r#"[{"jsonrpc":"2.0","method":"count","id":1},5,{"jsonrpc":"2.0","method":"count"},{"jsonrpc":"2.0","method":"later","id":2},{"jsonrpc":"2.0","method":"count","id":3}]"#;
    let answer = parsed(&rpc.handle(batch.as_bytes()).await.unwrap());
    assert_eq!(answer[0], json!({"jsonrpc": "2.0", "result": 1, "id": 1}));
    assert_eq!(answer[1]["error"]["code"], -32600);
    assert_eq!(answer[2]["result"], "OK");
    assert_eq!(answer[3], json!({"jsonrpc": "2.0", "result": 3, "id": 3}));
    assert_eq!(answer.as_array().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn size_batch_and_time_are_bounded() {
    let limits =
        JsonRpcLimits { bytes_max: 10_000, batch_max: 3, timeout: Duration::from_secs(10), ..JsonRpcLimits::default() };
    let rpc = JsonRpc::with_limits(commands().mi, limits);
    let long = format!(r#"{{"jsonrpc":"2.0","method":"echo","params":["{}"],"id":1}}"#, "x".repeat(10_000));
    assert_eq!(parsed(&rpc.handle(long.as_bytes()).await.unwrap())["error"]["code"], -32600);
    let one = r#"{"jsonrpc":"2.0","method":"count","id":1}"#;
    assert_eq!(
        parsed(&rpc.handle(format!("[{one},{one},{one},{one}]").as_bytes()).await.unwrap())["error"]["code"],
        -32600
    );
    let never = r#"{"jsonrpc":"2.0","method":"never","id":1}"#;
    let start = tokio::time::Instant::now();
    let answer = parsed(&rpc.handle(format!("[{never},{never},{one}]").as_bytes()).await.unwrap());
    assert_eq!(start.elapsed().as_secs(), 10, "the limit is for the whole batch");
    assert_eq!(
        (&answer[0]["error"]["code"], &answer[1]["error"]["code"], &answer[2]["result"]),
        (&json!(-32000), &json!(-32000), &json!(1))
    );
}

#[tokio::test]
async fn answers_may_be_pretty() {
    let rpc = JsonRpc::new(commands().mi).pretty(true);
    let answer = text(&rpc, r#"{"jsonrpc":"2.0","method":"count","id":1}"#).await.unwrap();
    assert_eq!(answer, "{\n  \"jsonrpc\": \"2.0\",\n  \"result\": 1,\n  \"id\": 1\n}");
}
