//! The syntax tree of an `opensips.cfg`. It holds what was written, with positions; nothing is resolved or checked here.

/// Index of a source file in the [`SourceMap`](crate::source::SourceMap).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId(pub u16);

/// A range of bytes in one source file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Something with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The thing.
    pub node: T,
    /// Where it stands.
    pub span: Span,
}

/// Which rules apply where the versions contradict each other (script-language specification §13.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Dialect {
    /// OpenSIPS 2.4.
    V2_4,
    /// OpenSIPS 3.x and 4.0.
    #[default]
    V4_0,
}

/// A whole script, includes spliced in, in source order.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Everything at top level.
    pub items: Vec<Item>,
    /// Forms seen that only one dialect has, for [`crate::dialect::detect`].
    pub form_votes: FormVotes,
}

/// How many forms of each dialect the grammar met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormVotes {
    /// Forms of 2.4 (conditions without parentheses, bare words as arguments, ...).
    pub v2_4: u32,
    /// Forms of 4.0 (`break` in loops, `return 3`, ...).
    pub v4_0: u32,
}

/// Something at top level.
#[derive(Clone, Debug)]
pub enum Item {
    /// `name = value`.
    Global(Global),
    /// `loadmodule "x.so"`: the text between the quotes.
    LoadModule(Spanned<String>),
    /// `modparam("modules", "name", value)`.
    Modparam(Modparam),
    /// A route block.
    Route(Route),
}

/// A global parameter.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its name.
    pub name: Spanned<String>,
    /// The value.
    pub value: GlobalValue,
    /// From the name to the end of the value.
    pub span: Span,
}

/// Value of a global parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum GlobalValue {
    /// A number or a boolean word.
    Int(i32),
    /// A quoted text.
    Text(Vec<u8>),
    /// A bare word (`LOG_LOCAL0`, `poll`, host names).
    Word(String),
    /// `socket=` or `listen=`.
    Socket(SocketDef),
    /// `alias=[proto:]host[:port]`.
    Alias(AliasDef),
    /// A construct whose text is kept as written (`dst_blacklist`, `auto_scaling_profile`, ...).
    Raw(String),
    /// A number followed by `use_auto_scaling_profile NAME`.
    Scaled(i32, String),
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SocketDef {
    /// `udp`, `tcp`, `bin`, ... in lower case.
    pub proto: String,
    /// Address, interface or host name; `*` for all; IPv6 without brackets.
    pub host: String,
    /// Ports as inclusive ranges; empty means the default of the protocol.
    pub ports: Vec<(u16, u16)>,
    /// `as host[:port]`.
    pub advertised: Option<(String, Option<u16>)>,
    /// `use_workers n` / `use_children n`.
    pub workers: Option<i32>,
    /// `tag name`.
    pub tag: Option<String>,
    /// `tos n`.
    pub tos: Option<i32>,
    /// Bare options in order: `anycast`, `frag`, `reuse_port`, `accept_subdomain`, ...
    pub options: Vec<String>,
}

/// An alias.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AliasDef {
    /// The protocol; `None` for `any` or when absent.
    pub proto: Option<String>,
    /// Host.
    pub host: String,
    /// Port.
    pub port: Option<u16>,
    /// `accept_subdomain`.
    pub accept_subdomain: bool,
}

/// `modparam(...)`.
#[derive(Clone, Debug)]
pub struct Modparam {
    /// Module name or regular expression over module names.
    pub modules: Spanned<String>,
    /// Parameter name.
    pub name: Spanned<String>,
    /// Value.
    pub value: Spanned<ModparamValue>,
    /// The whole statement.
    pub span: Span,
}

/// Value of a module parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModparamValue {
    /// A number or boolean word.
    Int(i32),
    /// One or more adjacent strings, joined.
    Text(Vec<u8>),
}

/// The kinds of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// `route`, `route[x]`.
    Request,
    /// `branch_route[x]`.
    Branch,
    /// `failure_route[x]`.
    Failure,
    /// `onreply_route`, `onreply_route[x]`.
    OnReply,
    /// `error_route`.
    Error,
    /// `local_route`.
    Local,
    /// `startup_route`.
    Startup,
    /// `timer_route[x,n]`.
    Timer,
    /// `event_route[E_X]`.
    Event,
}

/// A route block.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its kind.
    pub kind: RouteKind,
    /// Its name; `None` for the main route and the global reply route, error, local and startup routes. `route[0]` is the main route.
    pub name: Option<Spanned<String>>,
    /// Seconds of a timer route.
    pub interval: Option<i32>,
    /// `sync` / `async` of a 2.4 event route.
    pub event_mode: Option<EventMode>,
    /// The statements.
    pub body: Block,
    /// The whole block with its head.
    pub span: Span,
}

/// How a 2.4 event route runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventMode {
    /// In the raising run, on its message.
    Sync,
    /// Queued.
    Async,
}

/// Statements in order.
pub type Block = Vec<Stmt>;

/// A statement with its position.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// What it is.
    pub kind: StmtKind,
    /// Where.
    pub span: Span,
}

/// The statements of the language.
#[derive(Clone, Debug)]
pub enum StmtKind {
    /// A lone `;`.
    Null,
    /// `{ ... }` as a statement.
    Block(Block),
    /// A call.
    Call(Call),
    /// `target op value`.
    Assign(Assign),
    /// `if`.
    If(If),
    /// `while (cond) body`.
    While {
        /// Condition.
        cond: Cond,
        /// Body.
        body: Block,
    },
    /// `for ($it in $(list[*])) body`.
    For {
        /// The iterator variable.
        iterator: Var,
        /// The list variable.
        list: Var,
        /// Body.
        body: Block,
    },
    /// `switch`.
    Switch {
        /// The selector.
        selector: Var,
        /// Cases in order; a `default` is last and has no label.
        cases: Vec<Case>,
    },
    /// `break` (`esac` in 2.4).
    Break,
}

/// A case of a switch.
#[derive(Clone, Debug)]
pub struct Case {
    /// `None` for `default`.
    pub label: Option<Spanned<Constant>>,
    /// Statements; without a final `break` the next case runs on.
    pub body: Block,
}

/// `if (cond) then else otherwise`.
#[derive(Clone, Debug)]
pub struct If {
    /// Condition.
    pub cond: Box<Cond>,
    /// First branch.
    pub then: Block,
    /// Second branch.
    pub otherwise: Option<Block>,
}

/// An assignment.
#[derive(Clone, Debug)]
pub struct Assign {
    /// Left side.
    pub target: Var,
    /// Operator.
    pub op: AssignOp,
    /// Right side.
    pub value: Expr,
    /// Position of the whole.
    pub span: Span,
}

/// Assignment operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignOp {
    /// `=`
    Set,
    /// `:=`
    Replace,
    /// `+=`
    Add,
    /// `-=`
    Sub,
    /// `*=`
    Mul,
    /// `/=`
    Div,
    /// `%=`
    Mod,
    /// `&=`
    And,
    /// `|=`
    Or,
    /// `^=`
    Xor,
}

/// A constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constant {
    /// A number.
    Int(i32),
    /// A string, escapes resolved.
    Text(Vec<u8>),
}

/// A variable as written, from `$` to its end; it is parsed by [`crate::pvar`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Var {
    /// The text, for example `$(avp(x)[1]{s.len})`.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// Anything that is called.
#[derive(Clone, Debug)]
pub struct Call {
    /// What.
    pub kind: CallKind,
    /// Where, name and arguments.
    pub span: Span,
}

/// The kinds of call.
#[derive(Clone, Debug)]
pub enum CallKind {
    /// `exit`.
    Exit,
    /// `drop`.
    Drop,
    /// `return`.
    Return {
        /// The code; `None` is 1.
        code: Option<Arg>,
        /// Further values.
        values: Vec<Arg>,
    },
    /// `assert(cond, "text")`.
    Assert {
        /// Condition.
        cond: Box<Cond>,
        /// Text.
        text: Option<Vec<u8>>,
    },
    /// `log([level,] "text")`.
    Log {
        /// Level.
        level: Option<i32>,
        /// Text.
        text: Vec<u8>,
    },
    /// `xlog([level,] "format")`; `xdbg` has the level DBG.
    Xlog {
        /// Level text or variable as written.
        level: Option<Arg>,
        /// Format.
        format: Spanned<Vec<u8>>,
        /// Whether this was `xdbg`.
        is_debug: bool,
    },
    /// `route(name, args...)`.
    Route {
        /// The name.
        name: Spanned<RouteName>,
        /// Arguments.
        args: Vec<Arg>,
    },
    /// `async(func(...), route[, timeout])`.
    Async {
        /// The function.
        function: Function,
        /// The resume route.
        resume: Spanned<String>,
        /// Seconds.
        timeout: Option<i32>,
    },
    /// `launch(func(...)[, route[, value]])`.
    Launch {
        /// The function.
        function: Function,
        /// The report route.
        report: Option<Spanned<String>>,
        /// Format passed as `$param(1)`.
        value: Option<Spanned<Vec<u8>>>,
    },
    /// A core or module function.
    Function(Function),
}

/// How a called route is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteName {
    /// A name; with variables inside it is a format (3.1 and later).
    Text(String),
    /// `route($var(x))`.
    Var(Var),
}

/// A function call.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name.
    pub name: Spanned<String>,
    /// Arguments; an empty place is [`ArgKind::Missing`].
    pub args: Vec<Arg>,
    /// Position from name to closing parenthesis.
    pub span: Span,
}

/// An argument as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// What.
    pub kind: ArgKind,
    /// Where.
    pub span: Span,
}

/// The forms of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// Left out between commas.
    Missing,
    /// A number or boolean word.
    Int(i32),
    /// A quoted string, escapes resolved.
    Text(Vec<u8>),
    /// A variable.
    Var(Var),
    /// A bare word or address (2.4: flag names, sockets, `udp:1.2.3.4:5060`).
    Word(String),
    /// `NULL`.
    Null,
}

/// A condition.
#[derive(Clone, Debug)]
pub enum Cond {
    /// `a && b`, left to right.
    And(Box<Cond>, Box<Cond>),
    /// `a || b`.
    Or(Box<Cond>, Box<Cond>),
    /// `!a`.
    Not(Box<Cond>),
    /// `(a)`.
    Group(Box<Cond>),
    /// `[expr]`.
    Bracket(Box<Expr>),
    /// A comparison.
    Compare(Compare),
    /// A call.
    Call(Box<Call>),
    /// An `if` as a condition.
    If(If, Span),
    /// An assignment as a condition.
    Assign(Box<Assign>),
    /// A block.
    Block(Block, Span),
    /// A number.
    Int(i32),
    /// A bare variable.
    Var(Var),
}

/// A comparison; the left side is always a variable.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Left side.
    pub left: Var,
    /// Operator.
    pub op: CompareOp,
    /// Right side.
    pub right: CompareRight,
    /// Where.
    pub span: Span,
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `>`
    Gt,
    /// `<=`
    Le,
    /// `>=`
    Ge,
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
}

/// Right side of a comparison.
#[derive(Clone, Debug)]
pub enum CompareRight {
    /// A variable.
    Var(Var),
    /// A string.
    Text(Spanned<Vec<u8>>),
    /// A number.
    Int(i32),
    /// `NULL`.
    Null,
    /// An unquoted address or network, as written (`10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `::1`).
    Network(Spanned<String>),
}

/// An expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A number.
    Int(i32),
    /// A raw string.
    Text(Vec<u8>),
    /// `NULL` (only alone on the right side of an assignment).
    Null,
    /// A variable.
    Var(Var),
    /// A comparison, 1 or 0.
    Compare(Box<Compare>),
    /// A call; its code is the value.
    Call(Box<Call>),
    /// `(a)`.
    Group(Box<Expr>),
    /// `~a`.
    BitNot(Box<Expr>),
    /// `a op b`.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
}

/// Binary operators of expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `&`
    And,
    /// `|`
    Or,
    /// `^`
    Xor,
    /// `<<`
    Shl,
    /// `>>`
    Shr,
}
