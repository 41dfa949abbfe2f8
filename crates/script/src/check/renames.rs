//! Names of older OpenSIPS releases and what took their place, for suggestions. Names that still work are not here.

/// Old function, and what to write now.
const FUNCTIONS: &[(&str, &str)] = &[
    ("sl_reply", "write `sl_send_reply(code, reason)` or `send_reply(code, reason)`"),
    ("t_send_reply", "write `t_reply(code, reason)`"),
    ("exec_dset", "write `exec(command, , $var(out))` and set `$ru` from the output"),
    ("exec_msg", "write `exec(command, $mb)`"),
    ("exec_avp", "write `exec(command, , $avp(out))`"),
    ("exec_getenv", "read `$env(NAME)`"),
    ("db_check_from", "write `db_is_from_authorized(table)` of module auth_db"),
    ("db_check_to", "write `db_is_to_authorized(table)` of module auth_db"),
    ("uri_param", "read `$(ru{uri.param,name})`"),
    ("add_uri_param", "write `$ru = $ru + \";name=value\";`"),
    ("avp_write", "write `$avp(name) = value;`"),
    ("avp_print", "write `xlog(\"$(avp(name)[*])\")`"),
    ("avp_printf", "write `$avp(name) = \"format\";`"),
    ("avp_check", "write a comparison, for example `$avp(a) == $avp(b)`"),
    ("avp_pushto", "write an assignment, for example `$ru = $avp(target);`"),
    ("avp_copy", "write `$avp(new) = $(avp(old)[*]);`"),
    ("avp_delete", "write `$(avp(name)[*]) := NULL;`"),
    ("avp_op", "write an expression, for example `$avp(n) = $avp(n) + 1;`"),
    ("avp_db_query", "write `sql_query(query, result)` of module sqlops"),
    ("avp_db_load", "write `sql_avp_load(source, name)` of module sqlops"),
    ("avp_db_store", "write `sql_avp_store(source, name)` of module sqlops"),
    ("avp_db_delete", "write `sql_avp_delete(source, name)` of module sqlops"),
    ("rewritehost", "write `$rd = \"host\";`"),
    ("sethost", "write `$rd = \"host\";`"),
    ("rewritehostport", "write `$rd` and `$rp`"),
    ("sethostport", "write `$rd` and `$rp`"),
    ("rewriteport", "write `$rp = 5060;`"),
    ("setport", "write `$rp = 5060;`"),
    ("rewriteuser", "write `$rU = \"user\";`"),
    ("setuser", "write `$rU = \"user\";`"),
    ("rewriteuserpass", "write `$rU` and `$rP`"),
    ("rewriteuri", "write `$ru = \"sip:...\";`"),
    ("seturi", "write `$ru = \"sip:...\";`"),
    ("setdsturi", "write `$du = \"sip:...\";`"),
    ("resetdsturi", "write `$du = NULL;`"),
    ("isdsturiset", "write `$du != NULL`"),
    ("revert_uri", "write `$ru = $ou;`"),
    ("dp_apply_policy", "write `dp_translate(id, input, output)`"),
    ("ds_select", "write `ds_select_dst(set, algorithm)`"),
    ("load_balance", "write `lb_start(group, resources)`"),
    ("lb_disable", "write `lb_disable_dst()`"),
    ("lb_next_dst", "write `lb_next()`"),
    ("use_media_proxy", "write `engage_media_proxy()`"),
    ("unforce_rtp_proxy", "write `rtpproxy_unforce()`"),
    ("force_rtp_proxy", "write `rtpproxy_offer()` and `rtpproxy_answer()`"),
    ("engage_rtp_proxy", "write `rtpproxy_engage()`"),
    ("sip_trace", "write `trace(id)` of module tracer"),
    ("acc_rad_request", "write `acc_aaa_request(comment)`"),
    ("registered", "write `is_registered(domain)`"),
    ("route_to_carrier", "write `dr_route(...)` or `do_routing(group)`"),
    ("cr_route", "write `do_routing(group)` of module drouting"),
    ("subst_user", "write `$rU = $(rU{re.subst,/pattern/text/});`"),
    ("subst_uri", "write `$ru = $(ru{re.subst,/pattern/text/});`"),
    ("t_forward_nonack", "write `t_relay()`"),
    ("replicate", "let the cluster replicate the registration (`modparam(\"usrloc\", \"working_mode_preset\", ...)`)"),
];

/// Module, old parameter, new parameter.
const PARAMETERS: &[(&str, &str, &str)] = &[
    ("clusterer", "current_id", "my_node_id"),
    ("clusterer", "current_info", "my_node_info"),
    ("clusterer", "neighbor_info", "neighbor_node_info"),
    ("usrloc", "accept_replicated_contacts", "location_cluster"),
    ("usrloc", "replicate_contacts_to", "location_cluster"),
    ("usrloc", "ul_replicate_cluster", "location_cluster"),
    ("dialog", "accept_replicated_dialogs", "dialog_replication_cluster"),
    ("dialog", "replicate_dialogs_to", "dialog_replication_cluster"),
    ("dialog", "accept_replicated_profiles", "profile_replication_cluster"),
    ("dialog", "replicate_profiles_to", "profile_replication_cluster"),
    ("ratelimit", "accept_pipe_replication", "pipe_replication_cluster"),
    ("ratelimit", "replicate_pipes_to", "pipe_replication_cluster"),
    ("dispatcher", "replicate_status_cluster", "cluster_id"),
    ("load_balancer", "replicate_status_to", "cluster_id"),
    ("drouting", "replicate_status_to", "cluster_id"),
    ("acc", "db_extra", "extra_fields"),
    ("acc", "log_extra", "extra_fields"),
    ("acc", "aaa_extra", "extra_fields"),
    ("acc", "evi_extra", "extra_fields"),
    ("acc", "multi_leg_info", "leg_fields"),
    ("acc", "db_missed_flag", "do_accounting()"),
    ("acc", "db_flag", "do_accounting()"),
    ("acc", "log_flag", "do_accounting()"),
    ("tm", "fr_timer", "fr_timeout"),
    ("tm", "fr_inv_timer", "fr_inv_timeout"),
];

/// What took the place of a function of an older release.
pub(super) fn renamed_function(name: &str) -> Option<&'static str> {
    FUNCTIONS.iter().find(|(old, _)| *old == name).map(|(_, hint)| *hint)
}

/// The present name of a module parameter of an older release.
pub fn renamed_parameter(module: &str, name: &str) -> Option<&'static str> {
    PARAMETERS.iter().find(|(of, old, _)| *of == module && *old == name).map(|(_, _, new)| *new)
}
