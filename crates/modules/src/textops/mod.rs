//! Module `textops`: searching and replacing in the text of a message. Searches see what was received; replacements show
//! in what is sent. Patterns are in line mode: `.` stops at line ends, `^` and `$` match there.

mod subst;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_text};
use tandem_script::regex::{PosixRegex, RegexFlags};
use tandem_script::surface::ArgType::{Raw, Regex, Text};
use tandem_script::surface::{ArgSpec, arg};
use tandem_script::vm::Arg;
use tandem_sip::Span;

use crate::core::table::{MESSAGE_ROUTES, done, function};

/// Compiled patterns and substitutions kept for reuse; others are compiled at each use.
pub const PATTERNS_KEPT_MAX: usize = 1000;
/// Places one call replaces at most.
pub const REPLACEMENTS_MAX: usize = 1000;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "textops",
    doc: "searching and replacing in the text of a message",
    functions: FUNCTIONS,
    setup: |setup| {
        setup.state(State::default());
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

const RE: &[ArgSpec] = &[arg("re", Regex)];
const RE_TEXT: &[ArgSpec] = &[arg("re", Regex), arg("text", Text)];
const SUBST: &[ArgSpec] = &[arg("expression", Raw)];

static FUNCTIONS: &[Function] = &[
    function("search", RE, MESSAGE_ROUTES, "whether the message matches", search),
    function("search_body", RE, MESSAGE_ROUTES, "whether the body matches", search_body),
    function("search_append", RE_TEXT, MESSAGE_ROUTES, "adds a text behind the first match", search_append),
    function(
        "search_append_body",
        RE_TEXT,
        MESSAGE_ROUTES,
        "adds a text behind the first match in the body",
        search_append_body,
    ),
    function("replace", RE_TEXT, MESSAGE_ROUTES, "replaces the first match", replace),
    function("replace_body", RE_TEXT, MESSAGE_ROUTES, "replaces the first match in the body", replace_body),
    function("replace_all", RE_TEXT, MESSAGE_ROUTES, "replaces all matches", replace_all),
    function(
        "replace_body_all",
        RE_TEXT,
        MESSAGE_ROUTES,
        "replaces all matches in the body, line by line",
        replace_body_all,
    ),
    function(
        "replace_body_atonce",
        RE_TEXT,
        MESSAGE_ROUTES,
        "replaces all matches in the body as one text",
        replace_body_atonce,
    ),
    function("subst", SUBST, MESSAGE_ROUTES, "substitutes in headers and body", subst::subst),
    function("subst_uri", SUBST, MESSAGE_ROUTES, "substitutes in the Request-URI", subst::subst_uri),
    function("subst_user", SUBST, MESSAGE_ROUTES, "substitutes in the user of the Request-URI", subst::subst_user),
    function("subst_body", SUBST, MESSAGE_ROUTES, "substitutes in the body", subst::subst_body),
];

/// Compiled patterns in line mode, by their text.
#[derive(Default)]
struct State {
    patterns: RwLock<HashMap<Vec<u8>, Arc<PosixRegex>>>,
    substitutions: RwLock<HashMap<Vec<u8>, Arc<subst::Subst>>>,
}

fn line_pattern(context: &Context, args: &[Arg]) -> Option<Arc<PosixRegex>> {
    let Some(Arg::Regex(given)) = args.first() else { return None };
    let state = context.node.state::<State>()?;
    if let Some(known) = state.patterns.read().get(given.source()) {
        return Some(known.clone());
    }
    let flags = RegexFlags { ignore_case: true, is_line_mode: true };
    let made = Arc::new(PosixRegex::with_flags(given.source(), flags).ok()?);
    let mut patterns = state.patterns.write();
    if patterns.len() < PATTERNS_KEPT_MAX {
        patterns.insert(given.source().to_vec(), made.clone());
    }
    Some(made)
}

/// A region of the message as received.
#[derive(Clone, Copy)]
enum Region {
    /// Everything.
    Whole,
    /// Everything behind the first line.
    Rest,
    /// The body.
    Body,
}

fn region(context: &Context, region: Region) -> Span {
    let end = context.message.buffer().len() as u32;
    match region {
        Region::Whole => Span::new(0, end),
        Region::Rest => Span::new(context.message.first_line().end, end),
        Region::Body => context.message.body_span(),
    }
}

fn search_in(context: &Context, args: &[Arg], place: Region) -> Called {
    let Some(regex) = line_pattern(context, args) else { return done(false) };
    done(regex.is_match(context.message.bytes(region(context, place))))
}

fn search(context: &mut Context, args: &[Arg]) -> Called {
    search_in(context, args, Region::Whole)
}

fn search_body(context: &mut Context, args: &[Arg]) -> Called {
    search_in(context, args, Region::Body)
}

/// Ranges of the matches in a region; the first one only, or all.
fn matches(regex: &PosixRegex, text: &[u8], all: bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some([Some((start, end)), ..]) = regex.groups_at(text, from) {
        found.push((start, end));
        if !all || found.len() >= REPLACEMENTS_MAX {
            break;
        }
        // An empty match must not be found again; steps over a whole character.
        from = if end > start { end } else { next_char(text, end) };
        if from > text.len() {
            break;
        }
    }
    found
}

/// Where the character behind `at` begins.
fn next_char(text: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while text.get(next).is_some_and(|byte| byte & 0xc0 == 0x80) {
        next += 1;
    }
    next
}

fn change(context: &mut Context, regex: &PosixRegex, args: &[Arg], place: Region, all: bool, keeps: bool) -> Called {
    let Some(text) = arg_text(args, 1) else { return done(false) };
    let region = region(context, place);
    let found = matches(regex, context.message.bytes(region), all);
    let shared = bytes::Bytes::copy_from_slice(text);
    for (start, end) in &found {
        let (start, end) = (region.start + *start as u32, region.start + *end as u32);
        if keeps {
            context.edits.lumps.insert_after(end, shared.clone());
        } else {
            context.edits.lumps.replace(Span::new(start, end), shared.clone());
        }
    }
    done(!found.is_empty())
}

fn change_lines(context: &mut Context, args: &[Arg], place: Region, all: bool, keeps: bool) -> Called {
    let Some(regex) = line_pattern(context, args) else { return done(false) };
    change(context, &regex, args, place, all, keeps)
}

fn search_append(context: &mut Context, args: &[Arg]) -> Called {
    change_lines(context, args, Region::Rest, false, true)
}

fn search_append_body(context: &mut Context, args: &[Arg]) -> Called {
    change_lines(context, args, Region::Body, false, true)
}

fn replace(context: &mut Context, args: &[Arg]) -> Called {
    change_lines(context, args, Region::Rest, false, false)
}

fn replace_body(context: &mut Context, args: &[Arg]) -> Called {
    change_lines(context, args, Region::Body, false, false)
}

fn replace_all(context: &mut Context, args: &[Arg]) -> Called {
    change_lines(context, args, Region::Rest, true, false)
}

fn replace_body_all(context: &mut Context, args: &[Arg]) -> Called {
    change_lines(context, args, Region::Body, true, false)
}

fn replace_body_atonce(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Arg::Regex(regex)) = args.first() else { return done(false) };
    change(context, regex, args, Region::Body, true, false)
}
