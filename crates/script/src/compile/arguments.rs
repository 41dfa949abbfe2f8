//! Arguments as written to argument plans, by declared type, in the forms of both dialects (specification §5.3).

use std::sync::Arc;

use super::{ARGUMENTS_MAX, Compiler};
use crate::ast::{Arg, ArgKind, Dialect, Function, RouteKind};
use crate::diagnostic::Diagnostic;
use crate::program::{ArgPlan, VarRef, flag_index};
use crate::pvar;
use crate::regex::PosixRegex;
use crate::surface::{ArgSpec, ArgType, FunctionSpec};
use crate::value::{Text, Value};
use crate::vm::Arg as Made;

type Planned = Result<ArgPlan, Diagnostic>;

impl Compiler<'_> {
    pub(super) fn arguments(&mut self, function: &Function, spec: &FunctionSpec) -> Result<Vec<ArgPlan>, Diagnostic> {
        let name = spec.name;
        let wrong_count = |text: String| Diagnostic::error("argument-count", function.span, text);
        // `f()` parses to no argument or to one empty place.
        let given: &[Arg] = match function.args.as_slice() {
            [Arg { kind: ArgKind::Missing, .. }] => &[],
            args => args,
        };
        if given.len() > spec.args.len() || given.len() > ARGUMENTS_MAX {
            let max = spec.args.len().min(ARGUMENTS_MAX);
            return Err(wrong_count(format!("`{name}` takes at most {max} arguments, not {}", given.len())));
        }
        if let Some(swapped) = self.branch_flag_order(given, spec) {
            return swapped;
        }
        let mut plans = Vec::with_capacity(spec.args.len());
        for (at, declared) in spec.args.iter().enumerate() {
            match given.get(at) {
                None | Some(Arg { kind: ArgKind::Missing, .. }) => {
                    if !declared.optional {
                        return Err(wrong_count(format!("`{name}` needs argument {} ({})", at + 1, declared.name)));
                    }
                    plans.push(ArgPlan::Constant(Made::Missing));
                }
                Some(arg) => plans.push(self.argument(arg, declared)?),
            }
        }
        Ok(plans)
    }

    /// 2.4 writes `setbflag(index, FLAG)`, 4.0 `setbflag("FLAG", index)`; both are accepted for the 4.0 declaration.
    fn branch_flag_order(&mut self, given: &[Arg], spec: &FunctionSpec) -> Option<Result<Vec<ArgPlan>, Diagnostic>> {
        let (flag, int) = match spec.args {
            [flag, int] if flag.ty == ArgType::BranchFlag && int.ty == ArgType::Int => (flag, int),
            _ => return None,
        };
        let (first, second) = match given {
            [first, second] => (first, second),
            _ => return None,
        };
        let is_index_first = match (&first.kind, &second.kind) {
            (ArgKind::Int(_), ArgKind::Int(_)) => self.dialect == Dialect::V2_4,
            (ArgKind::Int(_) | ArgKind::Var(_), ArgKind::Word(_) | ArgKind::Text(_)) => true,
            _ => false,
        };
        is_index_first.then(|| Ok(vec![self.argument(second, flag)?, self.argument(first, int)?]))
    }

    fn argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        match declared.ty {
            ArgType::Int => self.int_argument(arg, declared),
            ArgType::Any => self.any_argument(arg),
            ArgType::Text => self.text_argument(arg, declared),
            ArgType::Static => self.static_argument(arg, declared),
            ArgType::Raw => Ok(constant(match &arg.kind {
                ArgKind::Int(int) => int.to_string().into_bytes(),
                ArgKind::Text(text) => text.clone(),
                ArgKind::Var(var) => var.text.clone().into_bytes(),
                ArgKind::Word(word) => word.clone().into_bytes(),
                ArgKind::Null | ArgKind::Missing => return Err(mismatch(arg, declared, "a string")),
            })),
            ArgType::Words => self.words_argument(arg, declared),
            ArgType::Var | ArgType::VarOut => self.variable_argument(arg, declared),
            ArgType::VarOrText => match &arg.kind {
                ArgKind::Text(text) if pvar::parse_exact(text, self.scope()).is_err() => {
                    self.text_argument(arg, declared)
                }
                ArgKind::Text(_) | ArgKind::Var(_) => self.variable_argument(arg, declared),
                _ => self.text_argument(arg, declared),
            },
            ArgType::Regex => self.regex_argument(arg, declared),
            ArgType::Flag | ArgType::BranchFlag => self.flag_argument(arg, declared),
            ArgType::Route(kind) => self.route_argument(arg, declared, kind),
        }
    }

    fn int_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        match &arg.kind {
            ArgKind::Int(int) => Ok(ArgPlan::Constant(Made::Int(*int))),
            ArgKind::Var(var) => self.var_or_error(var).map(ArgPlan::Int),
            ArgKind::Text(text) if text.contains(&b'$') => {
                let format = self.format_or_error(text, arg)?;
                match format.single_var() {
                    Some(var) => {
                        let var = var.clone();
                        Ok(ArgPlan::IntOrParse(self.add_var(var)))
                    }
                    None => Ok(ArgPlan::IntOfFormat(self.add_format(format))),
                }
            }
            ArgKind::Text(text) => {
                let int = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
                int.map(|int| ArgPlan::Constant(Made::Int(int))).ok_or_else(|| mismatch(arg, declared, "a number"))
            }
            ArgKind::Word(word) => word
                .parse()
                .map(|int| ArgPlan::Constant(Made::Int(int)))
                .map_err(|_| mismatch(arg, declared, "a number")),
            ArgKind::Null | ArgKind::Missing => Err(mismatch(arg, declared, "a number")),
        }
    }

    fn any_argument(&mut self, arg: &Arg) -> Planned {
        Ok(match &arg.kind {
            ArgKind::Int(int) => ArgPlan::Constant(Made::Value(Value::Int(*int))),
            ArgKind::Var(var) => ArgPlan::Any(self.var_or_error(var)?),
            ArgKind::Text(text) => {
                let format = self.format_or_error(text, arg)?;
                match format.as_constant() {
                    Some(text) => ArgPlan::Constant(Made::Value(Value::text(text))),
                    None => ArgPlan::Format(self.add_format(format)),
                }
            }
            ArgKind::Word(word) => ArgPlan::Constant(Made::Value(Value::text(word.as_bytes()))),
            ArgKind::Null | ArgKind::Missing => ArgPlan::Constant(Made::Value(Value::Null)),
        })
    }

    fn text_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        match &arg.kind {
            ArgKind::Int(int) => Ok(constant(int.to_string().into_bytes())),
            ArgKind::Word(word) => Ok(constant(word.clone().into_bytes())),
            ArgKind::Var(var) => self.var_or_error(var).map(ArgPlan::Text),
            ArgKind::Text(text) => {
                let format = self.format_or_error(text, arg)?;
                Ok(match format.as_constant() {
                    Some(text) => constant(text.to_vec()),
                    None => ArgPlan::Format(self.add_format(format)),
                })
            }
            ArgKind::Null | ArgKind::Missing => Err(mismatch(arg, declared, "a string")),
        }
    }

    fn words_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        let text = match &arg.kind {
            ArgKind::Var(var) => return self.var_or_error(var).map(ArgPlan::WordsOfVar),
            ArgKind::Text(text) => text.clone(),
            ArgKind::Int(int) => int.to_string().into_bytes(),
            ArgKind::Word(word) => word.clone().into_bytes(),
            ArgKind::Null | ArgKind::Missing => return Err(mismatch(arg, declared, "a string")),
        };
        let format = self.format_or_error(&text, arg)?;
        if let Some(var) = format.single_var() {
            let var = var.clone();
            return Ok(ArgPlan::WordsOfVar(self.add_var(var)));
        }
        Ok(ArgPlan::Words(format.words().into_iter().map(|word| self.add_format(word)).collect()))
    }

    fn static_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        static_text(arg)
            .map(|text| constant(text.into_bytes()))
            .ok_or_else(|| mismatch(arg, declared, "a constant without variables"))
    }

    fn variable_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        let var = match &arg.kind {
            ArgKind::Var(var) => {
                let at = self.var_or_error(var)?;
                self.parsed(at)
            }
            ArgKind::Text(text) => {
                Some(Arc::new(pvar::parse_exact(text, self.scope()).map_err(|error| self.bad_variable(arg, &error))?))
            }
            _ => None,
        };
        let Some(var) = var else { return Err(mismatch(arg, declared, "a variable")) };
        if declared.ty == ArgType::VarOut && !var.is_writable() {
            return Err(Diagnostic::error(
                "read-only-variable",
                arg.span,
                format!("`{}` cannot be written", var.source()),
            ));
        }
        Ok(ArgPlan::Constant(Made::Var(var)))
    }

    fn regex_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        match &arg.kind {
            ArgKind::Var(var) => self.var_or_error(var).map(ArgPlan::RegexVar),
            // 2.4 passes a variable as a string that is exactly one variable.
            ArgKind::Text(text) if text.starts_with(b"$") => match pvar::parse_exact(text, self.scope()) {
                Ok(var) => Ok(ArgPlan::RegexVar(self.add_var(Arc::new(var)))),
                Err(_) => regex(text, arg),
            },
            ArgKind::Text(text) => regex(text, arg),
            ArgKind::Int(int) => regex(int.to_string().as_bytes(), arg),
            ArgKind::Word(word) => regex(word.as_bytes(), arg),
            ArgKind::Null | ArgKind::Missing => Err(mismatch(arg, declared, "a regular expression")),
        }
    }

    fn flag_argument(&mut self, arg: &Arg, declared: &ArgSpec) -> Planned {
        let Some(name) = static_text(arg) else { return Err(mismatch(arg, declared, "the name of a flag")) };
        let names =
            if declared.ty == ArgType::Flag { &mut self.program.message_flags } else { &mut self.program.branch_flags };
        match flag_index(names, &name) {
            Some(at) => Ok(ArgPlan::Constant(Made::Flag(at))),
            None => Err(Diagnostic::error("too-many-flags", arg.span, format!("no room for the flag `{name}`"))),
        }
    }

    fn route_argument(&mut self, arg: &Arg, declared: &ArgSpec, kind: RouteKind) -> Planned {
        if let Some(name) = static_text(arg) {
            return match self.program.route(kind, &name) {
                Some(_) => Ok(constant(name.into_bytes())),
                None => {
                    let text = format!("there is no {}[{name}]", super::head(kind));
                    Err(Diagnostic::error("undefined-route", arg.span, text))
                }
            };
        }
        self.text_argument(arg, declared)
    }

    fn var_or_error(&mut self, var: &crate::ast::Var) -> Result<VarRef, Diagnostic> {
        // `var` logs on its own; the message moves into the result, so that another overload can be tried.
        let known = self.diagnostics.len();
        match self.var(var) {
            Some(at) => Ok(at),
            None => Err(self.taken_back(known, arg_span(var))),
        }
    }

    fn format_or_error(&mut self, text: &[u8], arg: &Arg) -> Result<crate::format::Format, Diagnostic> {
        let known = self.diagnostics.len();
        match self.parse_format(text, arg.span) {
            Some(format) => Ok(format),
            None => Err(self.taken_back(known, arg.span)),
        }
    }

    fn bad_variable(&mut self, arg: &Arg, error: &pvar::VarError) -> Diagnostic {
        let known = self.diagnostics.len();
        self.variable_error(arg.span, error);
        self.taken_back(known, arg.span)
    }

    fn taken_back(&mut self, known: usize, span: crate::ast::Span) -> Diagnostic {
        let last = self.diagnostics.pop().unwrap_or_else(|| Diagnostic::error("bad-variable", span, "bad variable"));
        self.diagnostics.truncate(known);
        last
    }
}

fn arg_span(var: &crate::ast::Var) -> crate::ast::Span {
    var.span
}

fn constant(text: Vec<u8>) -> ArgPlan {
    ArgPlan::Constant(Made::Text(Text::from(text)))
}

fn regex(text: &[u8], arg: &Arg) -> Planned {
    match PosixRegex::new(text) {
        Ok(regex) => Ok(ArgPlan::Constant(Made::Regex(Arc::new(regex)))),
        Err(error) => Err(Diagnostic::error("bad-regex", arg.span, error.to_string())),
    }
}

/// A text known at load: a word, a number, or a string without variables.
fn static_text(arg: &Arg) -> Option<String> {
    match &arg.kind {
        ArgKind::Int(int) => Some(int.to_string()),
        ArgKind::Word(word) => Some(word.clone()),
        ArgKind::Text(text) if !text.contains(&b'$') => String::from_utf8(text.clone()).ok(),
        _ => None,
    }
}

fn mismatch(arg: &Arg, declared: &ArgSpec, expected: &str) -> Diagnostic {
    Diagnostic::error("argument-type", arg.span, format!("argument `{}` has to be {expected}", declared.name))
}
