//! Text to variable: `$name`, `$name(arg)`, `$(<ctx>name(arg)[idx]{tr})`. It reads no values.

use std::sync::Arc;

use super::{
    CompiledVar, INDEX_INSERT, INDEX_INSERT_AFTER, KEY_START, RouteField, Scope, VAR_NESTING_MAX, VarClass, VarError,
    VarIndex, VarName, var_slot,
};
use crate::avp::AvpName;
use crate::format::Format;
use crate::surface::NameRule;
use crate::transform::parse_chain;
use crate::vm::MessageContext;

/// Parses a variable as it stands in code; text after a short form is ignored there (specification §1.4).
pub fn parse_code(text: &[u8], scope: Scope<'_>) -> Result<CompiledVar, VarError> {
    parse_at(text, 0, scope, 0).map(|(var, _)| var)
}

/// Parses a text that is exactly one variable, blanks around it aside (2.4 arguments such as `"$avp(x)"`).
pub fn parse_exact(text: &[u8], scope: Scope<'_>) -> Result<CompiledVar, VarError> {
    let trimmed = text.trim_ascii();
    let (var, end) = parse_at(trimmed, 0, scope, 0)?;
    if end == trimmed.len() { Ok(var) } else { Err(VarError::new(end, "text after the variable")) }
}

/// Parses the variable that starts at `text[at]`, a dollar sign; returns the offset behind it.
pub(crate) fn parse_at(
    text: &[u8],
    at: usize,
    scope: Scope<'_>,
    depth: usize,
) -> Result<(CompiledVar, usize), VarError> {
    if depth > VAR_NESTING_MAX {
        return Err(VarError::new(at, format!("more than {VAR_NESTING_MAX} variables inside each other")));
    }
    let mut cursor = Cursor { text, at, scope, depth };
    if cursor.peek() != Some(b'$') {
        return Err(VarError::new(at, "a variable starts with `$`"));
    }
    cursor.at += 1;
    let var = match cursor.peek() {
        Some(b'(') => {
            cursor.at += 1;
            cursor.long(at)?
        }
        Some(b'$') => {
            cursor.at += 1;
            cursor.finish(
                at,
                Parts {
                    class: VarClass::Dollar,
                    name: VarName::None,
                    index: VarIndex::None,
                    context: None,
                    is_writable: false,
                    keyed: None,
                },
            )
        }
        _ => {
            let parts = cursor.name_and_argument()?;
            cursor.finish(at, parts)
        }
    };
    Ok((var, cursor.at))
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    scope: Scope<'a>,
    depth: usize,
}

struct Parts<'a> {
    class: VarClass,
    name: VarName,
    index: VarIndex,
    context: Option<MessageContext>,
    is_writable: bool,
    /// The argument of a class whose index is a text.
    keyed: Option<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn finish(&self, start: usize, parts: Parts<'_>) -> CompiledVar {
        let source = String::from_utf8_lossy(self.text.get(start..self.at).unwrap_or(&[])).into();
        CompiledVar {
            source,
            context: parts.context,
            class: parts.class,
            name: parts.name,
            index: parts.index,
            transforms: Vec::new(),
            dialect: self.scope.dialect,
            is_writable: parts.is_writable,
        }
    }

    /// Behind `$(`.
    fn long(&mut self, start: usize) -> Result<CompiledVar, VarError> {
        let context = self.context()?;
        let mut parts = if self.peek() == Some(b'$') {
            self.at += 1;
            Parts {
                class: VarClass::Dollar,
                name: VarName::None,
                index: VarIndex::None,
                context: None,
                is_writable: false,
                keyed: None,
            }
        } else {
            self.name_and_argument()?
        };
        parts.context = context;
        if self.peek() == Some(b'[') {
            self.at += 1;
            match parts.keyed {
                Some(argument) => parts.name = self.key(parts.class, argument)?,
                None => parts.index = self.index()?,
            }
        }
        let (transforms, end) = parse_chain(self.text, self.at, self.scope, self.depth)?;
        self.at = end;
        if self.peek() != Some(b')') {
            return Err(VarError::new(self.at, "expected `)` at the end of the variable"));
        }
        self.at += 1;
        let mut var = self.finish(start, parts);
        var.transforms = transforms;
        Ok(var)
    }

    fn context(&mut self) -> Result<Option<MessageContext>, VarError> {
        if self.peek() != Some(b'<') {
            return Ok(None);
        }
        let rest = self.text.get(self.at..).unwrap_or(&[]);
        for (word, context) in
            [(b"<request>".as_slice(), MessageContext::Request), (b"<reply>".as_slice(), MessageContext::Reply)]
        {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(Some(context));
            }
        }
        Err(VarError::new(self.at, "unknown message context; there are `<request>` and `<reply>`"))
    }

    fn name_and_argument(&mut self) -> Result<Parts<'a>, VarError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'.') {
            self.at += 1;
        }
        let name = std::str::from_utf8(self.text.get(start..self.at).unwrap_or(&[])).unwrap_or("");
        if name.is_empty() {
            return Err(VarError::new(start, "a `$` without a variable name; write `$$` for a dollar sign"));
        }
        let argument = if self.peek() == Some(b'(') { Some(self.argument()?) } else { None };
        let (class, rule, is_writable) = self.class(name, start)?;
        match (rule, argument.is_some()) {
            (NameRule::Plain, true) => {
                return Err(VarError::new(start, format!("`${name}` takes no argument in parentheses")));
            }
            (NameRule::Named | NameRule::Path, false) => {
                return Err(VarError::new(start, format!("`${name}` needs an argument in parentheses")));
            }
            _ => {}
        }
        let argument = argument.unwrap_or((&[], self.at));
        let (class, mut name) = self.name(class, argument.0, argument.1)?;
        if rule == NameRule::Path && argument.0.contains(&b'$') {
            name = match name {
                VarName::Var(var) => VarName::Path(Arc::new(Format::of_var(*var))),
                VarName::Format(format) => VarName::Path(format),
                other => other,
            };
        }
        let keyed = (rule == NameRule::Keyed).then_some(argument.0);
        Ok(Parts { class, name, index: VarIndex::None, context: None, is_writable, keyed })
    }

    /// The text between balanced parentheses and where it starts.
    fn argument(&mut self) -> Result<(&'a [u8], usize), VarError> {
        let start = self.at + 1;
        let mut open = 0usize;
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                b'(' => open += 1,
                b')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok((self.text.get(start..self.at - 1).unwrap_or(&[]), start));
            }
        }
        Err(VarError::new(start - 1, "parenthesis not closed"))
    }

    fn class(&self, name: &str, at: usize) -> Result<(VarClass, NameRule, bool), VarError> {
        Ok(match name {
            // The slot is filled in by `name`.
            "var" => (VarClass::Var(0), NameRule::Named, true),
            "avp" => (VarClass::Avp, NameRule::Named, true),
            "rc" | "retcode" => (VarClass::Rc, NameRule::Plain, false),
            "return" => (VarClass::Return, NameRule::Named, false),
            "param" => (VarClass::Param, NameRule::Named, false),
            "route" => (VarClass::Route(RouteField::Whole), NameRule::Plain, false),
            "route.name" => (VarClass::Route(RouteField::Name), NameRule::Plain, false),
            "route.type" => (VarClass::Route(RouteField::Type), NameRule::Plain, false),
            "rT" => (VarClass::TopRouteKind, NameRule::Plain, false),
            "cfg_line" => (VarClass::CfgLine, NameRule::Plain, false),
            "cfg_file" => (VarClass::CfgFile, NameRule::Plain, false),
            _ => match self.scope.surface.variable_named(name) {
                Some((id, spec)) => (VarClass::Host(id), spec.rule, spec.is_writable),
                // Whether it can be written is not known: assignments fail when they run.
                None if self.scope.surface.missing_variable(name).is_some() => {
                    (VarClass::Missing, NameRule::Both, true)
                }
                None => {
                    let mut error = VarError::new(at, format!("unknown variable `${name}`"));
                    error.unknown = Some(name.to_owned());
                    return Err(error);
                }
            },
        })
    }

    fn name(&self, class: VarClass, argument: &[u8], at: usize) -> Result<(VarClass, VarName), VarError> {
        let full = || VarError::new(at, "too many variable names");
        match class {
            VarClass::Var(_) => {
                let slot = var_slot(argument).ok_or_else(full)?;
                Ok((VarClass::Var(slot), VarName::Text(argument.into())))
            }
            VarClass::Avp if !argument.starts_with(b"$") => {
                if argument.is_empty() {
                    return Err(VarError::new(at, "`$avp` needs a name"));
                }
                Ok((class, VarName::Avp(AvpName::intern(argument).ok_or_else(full)?)))
            }
            _ if argument.is_empty() => Ok((class, VarName::None)),
            _ if argument.contains(&b'$') => {
                let shift = |mut error: VarError| {
                    error.at += at;
                    error
                };
                let format = Format::parse_nested(argument, self.scope, self.depth + 1).map_err(shift)?;
                let name = match (format.as_constant(), format.single_var()) {
                    (Some(text), _) => VarName::Text(text.into()),
                    (None, Some(var)) => VarName::Var(Box::new(CompiledVar::clone(var))),
                    (None, None) => VarName::Format(Arc::new(format)),
                };
                Ok((class, name))
            }
            _ => Ok((class, VarName::Text(argument.into()))),
        }
    }

    /// Behind the `[` of a class whose index is a text: argument and index in one.
    fn key(&mut self, class: VarClass, argument: &[u8]) -> Result<VarName, VarError> {
        let start = self.at;
        let mut open = 1usize;
        while let Some(c) = self.peek() {
            open = match c {
                b'[' => open + 1,
                b']' => open - 1,
                _ => open,
            };
            self.at += 1;
            if open == 0 {
                let key = self.text.get(start..self.at - 1).unwrap_or(&[]).trim_ascii();
                let both = [argument, &[KEY_START], key].concat();
                return self.name(class, &both, start).map(|(_, name)| name);
            }
        }
        Err(VarError::new(start, "expected `]` behind the index"))
    }

    /// Behind `[`.
    fn index(&mut self) -> Result<VarIndex, VarError> {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        let start = self.at;
        let index = if self.peek() == Some(b'$') {
            let (var, end) = parse_at(self.text, self.at, self.scope, self.depth + 1)?;
            self.at = end;
            VarIndex::Var(Box::new(var))
        } else {
            while self.peek().is_some_and(|c| c != b']' && c != b' ' && c != b')') {
                self.at += 1;
            }
            let word = std::str::from_utf8(self.text.get(start..self.at).unwrap_or(&[])).unwrap_or("");
            match word {
                "*" => VarIndex::All,
                "append" => VarIndex::Append,
                word if word.eq_ignore_ascii_case("insert") => VarIndex::At(INDEX_INSERT),
                word if word.eq_ignore_ascii_case("insertAfter") => VarIndex::At(INDEX_INSERT_AFTER),
                digits => match digits.parse::<i32>() {
                    Ok(at) => VarIndex::At(at),
                    Err(_) => return Err(VarError::new(start, format!("bad index `{digits}`"))),
                },
            }
        };
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        if self.peek() != Some(b']') {
            return Err(VarError::new(self.at, "expected `]` behind the index"));
        }
        self.at += 1;
        Ok(index)
    }
}
