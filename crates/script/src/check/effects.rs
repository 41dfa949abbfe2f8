//! What functions do to a request, as far as the checks have to know: which ones answer or forward it, which ones hold up
//! a run. By name, for all modules of OpenSIPS, so that scripts with modules that are missing here are judged alike.

/// What becomes of the request by a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that ends its handling.
    None,
    /// It is answered, taken over, or left to code outside of the script.
    Handled,
    /// It is forwarded; on failure the script has to answer.
    Relayed,
    /// There is a transaction for it now.
    Transaction,
    /// True when it belongs to a transaction that exists: an ACK, a CANCEL or a repetition.
    Matched,
    /// A test of the method.
    Method,
}

const HANDLES: &[&str] = &[
    "sl_send_reply",
    "sl_reply_error",
    "send_reply",
    "send_reply_with_body",
    "t_reply",
    "t_reply_with_body",
    "t_reply_by_callid",
    "t_inject_branches",
    "t_anycast_replicate",
    "save",
    "mid_registrar_save",
    "rls_handle_subscribe",
    "rls_handle_notify",
    "cc_handle_call",
    "imc_manager",
    "options_reply",
    "sca_init_request",
    "sca_bridge_request",
    "sip_capture",
    "ua_session_server_init",
    "ua_session_reply",
    "msrp_gw_answer",
    "msrp_ua_answer",
    "call_transfer",
    "call_blind_replace",
    "call_attended_replace",
    "sms_send_msg",
    "jab_send_message",
    "send",
    "perl_exec",
    "perl_exec_simple",
    "lua_exec",
    "lua_meminfo",
    "python_exec",
    "rust_exec",
    "java_method_exec",
    "fs_exec",
];

/// What a call does.
pub(super) fn of(function: &str) -> Effect {
    match function {
        "t_relay" | "forward" => Effect::Relayed,
        "t_newtran" => Effect::Transaction,
        "t_check_trans" | "t_lookup_request" => Effect::Matched,
        "is_method" => Effect::Method,
        _ if HANDLES.contains(&function)
            || function.ends_with("_challenge")
            || function.starts_with("b2b_")
            || function.starts_with("handle_") =>
        {
            Effect::Handled
        }
        _ => Effect::None,
    }
}

/// Functions that wait for something outside when they are called plainly, beside those that the tables mark for `async`.
const HOLDS_UP: &[&str] = &[
    "sleep",
    "usleep",
    "exec",
    "rest_get",
    "rest_post",
    "rest_put",
    "rest_delete",
    "http2_post",
    "sql_query",
    "sql_query_one",
    "sql_select",
    "sql_select_one",
    "sql_update",
    "sql_insert",
    "sql_delete",
    "sql_replace",
    "sql_avp_load",
    "sql_avp_store",
    "sql_avp_delete",
    "avp_db_query",
    "avp_db_load",
    "avp_db_store",
    "avp_db_delete",
    "ldap_search",
    "radius_send_auth",
    "radius_send_acct",
    "aaa_www_authorize",
    "aaa_proxy_authorize",
    "dm_send_request",
    "cgrates_auth",
    "cgrates_cmd",
    "launch_darkly_get",
];

/// Whether a plain call of the function may wait for another system.
pub(super) fn holds_up(function: &str) -> bool {
    HOLDS_UP.contains(&function)
}

/// Functions after which AVPs of any name may be set.
const SETS_ANY_AVP: &[&str] = &[
    "avp_db_load",
    "sql_avp_load",
    "avp_insert",
    "avp_subst",
    "avp_copy",
    "raise_event",
    "perl_exec",
    "perl_exec_simple",
    "lua_exec",
    "python_exec",
    "rust_exec",
    "ldap_result",
    "radius_send_auth",
    "load_dlg_ctx",
    "acc_load_ctx_from_dlg",
];

/// Whether any AVP may be set after a call of the function.
pub(super) fn sets_any_avp(function: &str) -> bool {
    SETS_ANY_AVP.contains(&function)
}
