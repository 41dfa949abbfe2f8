//! `record_route()` and kin: notes what our Record-Route shall be.

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::edits::RecordRoute;
use tandem_script::ast::RouteKind;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::Uri;

use super::Settings;
use crate::core::table::done;

/// `;ftag=...` and what the script adds.
fn params_of(context: &Context, given: &[u8]) -> Vec<u8> {
    let appends = context.node.state::<Settings>().is_none_or(|settings| settings.appends_from_tag);
    let tag = if appends { context.message.from().ok().and_then(|from| from.tag()) } else { None };
    let tag_bytes = tag.map_or(0, |tag| tag.len() + 6);
    let mut params = Vec::with_capacity(tag_bytes + given.len());
    if let Some(tag) = tag {
        params.extend_from_slice(b";ftag=");
        params.extend_from_slice(tag);
    }
    if !given.is_empty() && !given.starts_with(b";") {
        params.push(b';');
    }
    params.extend_from_slice(given);
    params
}

/// The user of the received Request-URI, with `add_username`.
fn user_of(context: &Context) -> Option<Text> {
    context.node.state::<Settings>().filter(|settings| settings.adds_username)?;
    let uri = Uri::parse(context.message.request_uri()?).ok()?;
    uri.user.filter(|user| !user.is_empty()).map(Text::copy)
}

/// Whether the request has our Record-Route already; in a branch route that of the branch counts.
fn is_recorded(context: &Context) -> bool {
    if context.edits.record_routes.is_empty() || context.kind == RouteKind::Branch {
        return false;
    }
    context.log(LogLevel::Error, "record_route() was called for this request before; ignored");
    true
}

/// `record_route([params])`.
pub(super) fn record_route(context: &mut Context, args: &[Arg]) -> Called {
    if !context.is_request() || is_recorded(context) {
        return done(false);
    }
    let params = params_of(context, arg_text(args, 0).unwrap_or_default());
    let user = user_of(context);
    context.edits.record_routes.push(RecordRoute { params, user, preset: None, preset2: None });
    done(true)
}

/// `record_route_preset(first[, second])`: the first address belongs to the outgoing side.
pub(super) fn record_route_preset(context: &mut Context, args: &[Arg]) -> Called {
    let Some(first) = arg_text(args, 0) else { return done(false) };
    if !context.is_request() || is_recorded(context) {
        return done(false);
    }
    // Parameters noted before the header existed belong to it; the writer adds them only to headers with an address of ours.
    let noted = std::mem::take(&mut context.edits.rr_params);
    let params = params_of(context, &noted);
    let preset2 = arg_text(args, 1).filter(|second| !second.is_empty()).map(Text::copy);
    let user = user_of(context);
    context.edits.record_routes.push(RecordRoute { params, user, preset: Some(Text::copy(first)), preset2 });
    done(true)
}

/// `add_rr_param(param)`, before or after `record_route()`.
pub(super) fn add_rr_param(context: &mut Context, args: &[Arg]) -> Called {
    let Some(param) = arg_text(args, 0) else { return done(false) };
    add_param(context, param);
    done(true)
}

/// Adds a parameter such as `;did=1.2` to our Record-Route, whether it is noted already or not.
pub fn add_param(context: &mut Context, param: &[u8]) {
    let params = match context.edits.record_routes.first_mut() {
        Some(route) => &mut route.params,
        None => &mut context.edits.rr_params,
    };
    if !param.is_empty() && !param.starts_with(b";") {
        params.push(b';');
    }
    params.extend_from_slice(param);
}
