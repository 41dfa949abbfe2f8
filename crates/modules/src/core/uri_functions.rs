//! Functions on the request URI and the next hop: `seturi` and kin, `prefix`, `strip`, `setdsturi`. Variables are elsewhere.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::value::Text;
use tandem_script::vm::Arg;
use tandem_sip::UriEdit;

use super::request_vars::edit_ruri;
use super::table::done;

macro_rules! text_edits {
    ($($name:ident = $edit:ident;)*) => {
        $(pub(super) fn $name(context: &mut Context, args: &[Arg]) -> Called {
            done(arg_text(args, 0).is_some_and(|text| edit_ruri(context, &UriEdit::$edit(text))))
        })*
    };
}

text_edits! {
    set_host = Host;
    set_host_port = HostPort;
    set_user = User;
    set_user_password = UserPassword;
    set_port = Port;
    prefix = Prefix;
}

pub(super) fn set_uri(context: &mut Context, args: &[Arg]) -> Called {
    let Some(uri) = arg_text(args, 0) else { return done(false) };
    if !context.is_request() {
        return done(false);
    }
    super::request_vars::replace_ruri(context, Text::copy(uri));
    done(true)
}

pub(super) fn strip(context: &mut Context, args: &[Arg]) -> Called {
    let count = arg_int(args, 0).and_then(|count| usize::try_from(count).ok());
    done(count.is_some_and(|count| edit_ruri(context, &UriEdit::Strip(count))))
}

pub(super) fn strip_tail(context: &mut Context, args: &[Arg]) -> Called {
    let count = arg_int(args, 0).and_then(|count| usize::try_from(count).ok());
    done(count.is_some_and(|count| edit_ruri(context, &UriEdit::StripTail(count))))
}

pub(super) fn revert_uri(context: &mut Context, _: &[Arg]) -> Called {
    context.edits.target.uri = None;
    done(true)
}

pub(super) fn set_dst_uri(context: &mut Context, args: &[Arg]) -> Called {
    let Some(uri) = arg_text(args, 0) else { return done(false) };
    context.edits.target.dst_uri = Some(Text::copy(uri)).filter(|uri| !uri.is_empty());
    done(true)
}

pub(super) fn reset_dst_uri(context: &mut Context, _: &[Arg]) -> Called {
    context.edits.target.dst_uri = None;
    done(true)
}

pub(super) fn is_dst_uri_set(context: &mut Context, _: &[Arg]) -> Called {
    done(context.edits.target.dst_uri.is_some())
}
