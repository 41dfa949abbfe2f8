//! Module `sipmsgops`: headers, body parts, codecs and questions about a message. All changes are edits of what leaves.

pub mod body;
mod codecs;
mod headers;
mod json;
mod parts;
pub(crate) mod questions;
#[cfg(test)]
mod tests;
pub(crate) mod uri_params;
mod validate;

pub(crate) use parts::{current_sdp, received_sdp, sent_sdp, set_sdp};

use tandem_module::ModuleDecl;
use tandem_module::declare::Function;
use tandem_script::surface::ArgType::{Int, Regex, Text, VarOut};
use tandem_script::surface::{ArgSpec, Routes, arg, opt};

use crate::core::table::{MESSAGE_ROUTES, REQUEST_ROUTES, function};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "sipmsgops",
    doc: "headers, body parts, codecs and questions about a message",
    functions: FUNCTIONS,
    ..ModuleDecl::EMPTY
};

const TEXT: &[ArgSpec] = &[arg("text", Text)];
const NAME: &[ArgSpec] = &[arg("name", Text)];
const PARAM: &[ArgSpec] = &[arg("param", Text)];
const PARAM_VALUE: &[ArgSpec] = &[arg("param", Text), opt("value", Text)];
const CODEC: &[ArgSpec] = &[arg("name", Text), opt("clock", Text)];
const CODEC_RE: &[ArgSpec] = &[arg("regexp", Regex)];
const STREAM: &[ArgSpec] = &[arg("media", Regex), opt("transport", Regex)];
const OPTION: &[ArgSpec] = &[arg("header", Text), arg("option", Text)];
const MIME: &[ArgSpec] = &[opt("mime", Text)];

pub(crate) static FUNCTIONS: &[Function] = &[
    function(
        "append_to_reply",
        TEXT,
        REQUEST_ROUTES,
        "adds header lines to replies made here",
        headers::append_to_reply,
    ),
    function("append_time", &[], REQUEST_ROUTES, "adds a Date header to replies made here", headers::append_time),
    function(
        "append_hf",
        &[arg("text", Text), opt("after", Text)],
        MESSAGE_ROUTES,
        "adds header lines behind the others",
        headers::append,
    ),
    function(
        "insert_hf",
        &[arg("text", Text), opt("before", Text)],
        MESSAGE_ROUTES,
        "adds header lines before the others",
        headers::insert,
    ),
    function(
        "append_urihf",
        &[arg("prefix", Text), arg("suffix", Text)],
        REQUEST_ROUTES,
        "adds a header with the received Request-URI",
        headers::append_uri,
    ),
    function("is_present_hf", NAME, MESSAGE_ROUTES, "whether there is such a header", headers::is_present),
    function(
        "append_body_to_reply",
        TEXT,
        REQUEST_ROUTES,
        "a body for replies made here; its Content-Type comes from append_to_reply()",
        headers::append_body_to_reply,
    ),
    function(
        "get_glob_headers_values",
        &[arg("pattern", Text), arg("names", VarOut), arg("values", VarOut)],
        MESSAGE_ROUTES,
        "names and values of all headers whose name matches a glob, as lists",
        headers::glob_values,
    ),
    function(
        "sip_to_json",
        &[arg("result", VarOut)],
        MESSAGE_ROUTES,
        "the message as a JSON object: first_line, headers (lists by name) and body",
        json::sip_to_json,
    ),
    function(
        "remove_hf",
        &[arg("name", Text), opt("match", Text)],
        MESSAGE_ROUTES,
        "removes all headers of that name; match r: a regular expression, g: a glob (2.4)",
        headers::remove,
    ),
    function(
        "remove_hf_re",
        CODEC_RE,
        MESSAGE_ROUTES,
        "removes all headers whose name matches",
        headers::remove_matching,
    ),
    function(
        "remove_hf_glob",
        &[arg("pattern", Text)],
        MESSAGE_ROUTES,
        "removes all headers whose name matches a glob",
        headers::remove_glob,
    ),
    function("list_hdr_has_option", OPTION, MESSAGE_ROUTES, "whether a header lists an option", headers::has_option),
    function(
        "list_hdr_add_option",
        OPTION,
        MESSAGE_ROUTES,
        "adds an option to the list of a header",
        headers::add_option,
    ),
    function(
        "list_hdr_remove_option",
        OPTION,
        MESSAGE_ROUTES,
        "takes an option off the list of a header",
        headers::remove_option,
    ),
    function(
        "is_method",
        &[arg("methods", Text)],
        MESSAGE_ROUTES,
        "whether the method is one of a list such as INVITE|ACK",
        questions::is_method,
    ),
    function("has_totag", &[], MESSAGE_ROUTES, "whether the To header has a tag", questions::has_to_tag),
    function("has_body", MIME, MESSAGE_ROUTES, "2.4 name of has_body_part()", questions::has_body),
    function("has_body_part", MIME, MESSAGE_ROUTES, "whether there is a body part, of that type", questions::has_body),
    function(
        "is_privacy",
        &[arg("type", Text)],
        MESSAGE_ROUTES,
        "whether Privacy lists a value",
        questions::is_privacy,
    ),
    function(
        "is_audio_on_hold",
        &[],
        MESSAGE_ROUTES,
        "1 held by address 0.0.0.0, 2 by direction, -1 not held",
        questions::is_audio_on_hold,
    ),
    function(
        "is_uri_user_e164",
        &[arg("uri", Text)],
        MESSAGE_ROUTES,
        "whether the user of a URI is an E.164 number",
        questions::is_user_e164,
    ),
    function(
        "change_reply_status",
        &[arg("code", Int), arg("reason", Text)],
        Routes::ONREPLY,
        "status and reason with which a reply goes on",
        questions::change_reply_status,
    ),
    function(
        "sipmsg_validate",
        &[opt("flags", Text), opt("reason", VarOut)],
        MESSAGE_ROUTES,
        "whether the message is sound; a negative code and a reason tell what is wrong",
        validate::sipmsg_validate,
    ),
    function("ruri_has_param", PARAM_VALUE, REQUEST_ROUTES, "whether the Request-URI has a parameter", uri_params::has),
    function("ruri_add_param", PARAM, REQUEST_ROUTES, "adds name=value to the Request-URI", uri_params::add),
    function("ruri_del_param", PARAM, REQUEST_ROUTES, "removes a parameter of the Request-URI", uri_params::remove),
    function("ruri_tel2sip", &[], REQUEST_ROUTES, "makes a sip: URI of a tel: URI", uri_params::tel_to_sip),
    function(
        "remove_body_part",
        &[opt("mime", Text), opt("revert", Text)],
        MESSAGE_ROUTES,
        "removes body parts",
        parts::remove,
    ),
    function(
        "add_body_part",
        &[arg("body", Text), arg("mime", Text), opt("headers", Text)],
        MESSAGE_ROUTES,
        "adds a body part",
        parts::add,
    ),
    function(
        "get_updated_body_part",
        &[opt("mime", Text), arg("result", VarOut)],
        MESSAGE_ROUTES,
        "a body part with the changes so far",
        parts::updated,
    ),
    function("codec_exists", CODEC, MESSAGE_ROUTES, "whether the SDP has a codec", codecs::exists),
    function("codec_delete", CODEC, MESSAGE_ROUTES, "removes a codec from the SDP", codecs::delete),
    function("codec_move_up", CODEC, MESSAGE_ROUTES, "puts a codec first", codecs::move_up),
    function("codec_move_down", CODEC, MESSAGE_ROUTES, "puts a codec last", codecs::move_down),
    function("codec_exists_re", CODEC_RE, MESSAGE_ROUTES, "whether the SDP has a codec that matches", codecs::exists),
    function("codec_delete_re", CODEC_RE, MESSAGE_ROUTES, "removes codecs that match", codecs::delete),
    function(
        "codec_delete_except_re",
        CODEC_RE,
        MESSAGE_ROUTES,
        "removes codecs that do not match",
        codecs::delete_except,
    ),
    function("codec_move_up_re", CODEC_RE, MESSAGE_ROUTES, "puts codecs that match first", codecs::move_up),
    function("codec_move_down_re", CODEC_RE, MESSAGE_ROUTES, "puts codecs that match last", codecs::move_down),
    function(
        "stream_exists",
        STREAM,
        MESSAGE_ROUTES,
        "whether the SDP has such a media section",
        codecs::stream_exists,
    ),
    function("stream_delete", STREAM, MESSAGE_ROUTES, "removes media sections", codecs::stream_delete),
];
