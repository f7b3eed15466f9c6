//! CEL over the admission request, as in matchConditions: `request`, `object`, `oldObject`.
//!
//! What is written here is compiled once, and checked for what the compiler itself does not look at: names that nobody
//! declared, functions that are not there, and work that would grow with the square of an object's size.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Env, Program, Value};

/// Larger objects are not shown to expressions: one that asks for them fails, and so does not match.
pub const EXPRESSION_OBJECT_BYTES_MAX: usize = 128 * 1024;

/// Of a text and of the tree it parses to: evaluation recurses.
const DEPTH_MAX: usize = 48;
const TEXT_BYTES_MAX: usize = 2_048;
const VARIABLES: [&str; 3] = ["request", "object", "oldObject"];
const FUNCTIONS: [&str; 22] = [
    "contains",
    "size",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bytes",
    "bool",
    "dyn",
    "type",
    "has",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDate",
    "getHours",
    "getDayOfWeek",
    "getMinutes",
];

/// What a request says, as far as an expression asks for it.
pub trait Facts {
    /// The review's `request`, without its objects.
    fn request(&self) -> Option<serde_json::Value>;
    fn object(&self) -> Option<serde_json::Value>;
    fn old_object(&self) -> Option<serde_json::Value>;
}

/// Why an expression is none, in the compiler's words where it was the compiler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Uncompiled(String);

pub(crate) struct Expression {
    program: Program,
    asks_for: [bool; 3],
}

impl Expression {
    pub(crate) fn compile(text: &str) -> Result<Self, Uncompiled> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Uncompiled(format!("{} bytes long: accepted are {TEXT_BYTES_MAX}", text.len())));
        }
        if brackets(text) > DEPTH_MAX {
            return Err(Uncompiled(format!("nested more than {DEPTH_MAX} deep")));
        }
        // The parser is somebody else's and an expression anybody's: what it cannot take must not end the program.
        let compiled = catch_unwind(AssertUnwindSafe(|| Program::compile(text)));
        let program = compiled
            .map_err(|_| Uncompiled("the compiler cannot take it".to_owned()))?
            .map_err(|errors| Uncompiled(errors.to_string().trim().to_owned()))?;
        let mut check = Check { scope: VARIABLES.to_vec(), asks_for: [false; 3] };
        check.walk(program.expression(), 0, false)?;
        let asks_for = check.asks_for;
        Ok(Self { program, asks_for })
    }

    /// None where it fails, or gives neither true nor false.
    pub(crate) fn holds(&self, values: &mut Values<'_>) -> Option<bool> {
        let mut context = Context::with_env(Arc::clone(values.env));
        for (variable, asked) in VARIABLES.iter().zip(self.asks_for) {
            if asked {
                context.add_variable_from_value(*variable, values.of(variable)?);
            }
        }
        match catch_unwind(AssertUnwindSafe(|| self.program.execute(&context))) {
            Ok(Ok(Value::Bool(holds))) => Some(holds),
            _ => None,
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expression(..)")
    }
}

/// What expressions were shown of one request so far: read once, however many ask.
pub(crate) struct Values<'a> {
    env: &'a Arc<Env>,
    facts: &'a dyn Facts,
    read: [Option<Option<Value>>; 3],
}

impl<'a> Values<'a> {
    pub(crate) fn new(env: &'a Arc<Env>, facts: &'a dyn Facts) -> Self {
        Self { env, facts, read: [None, None, None] }
    }

    fn of(&mut self, variable: &str) -> Option<Value> {
        let place = VARIABLES.iter().position(|known| *known == variable)?;
        let facts = self.facts;
        self.read[place]
            .get_or_insert_with(|| {
                let json = match place {
                    0 => facts.request(),
                    1 => facts.object(),
                    _ => facts.old_object(),
                };
                json.and_then(|json| cel::to_value(json).ok())
            })
            .clone()
    }
}

/// How deep the brackets of a text nest, those in its strings included.
fn brackets(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

struct Check<'t> {
    scope: Vec<&'t str>,
    asks_for: [bool; 3],
}

impl<'t> Check<'t> {
    fn walk(&mut self, expression: &'t IdedExpr, depth: usize, inside: bool) -> Result<(), Uncompiled> {
        if depth > 4 * DEPTH_MAX {
            return Err(Uncompiled("nested too deep".to_owned()));
        }
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.each([select.operand.as_ref()], depth, inside),
            Expr::Call(call) => {
                let operator = !call.func_name.starts_with(|first: char| first.is_ascii_alphabetic());
                if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err(Uncompiled(format!(
                        "undeclared function {:?}: accepted are {}",
                        call.func_name,
                        FUNCTIONS.join(", ")
                    )));
                }
                if inside && call.func_name == "@in" && call.args.get(1).is_some_and(|list| !is_literal(list)) {
                    return Err(quadratic("`in` with a list that is not written out"));
                }
                self.each(call.target.iter().map(AsRef::as_ref).chain(&call.args), depth, inside)
            }
            Expr::Comprehension(comprehension) => {
                if inside {
                    return Err(quadratic("another all, exists, map or filter"));
                }
                self.each([&comprehension.iter_range], depth, inside)?;
                let outer = self.scope.len();
                self.scope.extend([comprehension.iter_var.as_str(), comprehension.accu_var.as_str()]);
                self.scope.extend(comprehension.iter_var2.as_deref());
                let parts = [
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ];
                self.each(parts, depth, true)?;
                self.scope.truncate(outer);
                Ok(())
            }
            Expr::List(list) => self.each(&list.elements, depth, inside),
            Expr::Map(map) => {
                let parts = map.entries.iter().flat_map(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                    EntryExpr::StructField(field) => vec![&field.value],
                });
                self.each(parts, depth, inside)
            }
            Expr::Struct(literal) => Err(Uncompiled(format!("unknown type {:?}", literal.type_name))),
        }
    }

    fn each(
        &mut self,
        parts: impl IntoIterator<Item = &'t IdedExpr>,
        depth: usize,
        inside: bool,
    ) -> Result<(), Uncompiled> {
        parts.into_iter().try_for_each(|part| self.walk(part, depth + 1, inside))
    }

    fn name(&mut self, name: &str) -> Result<(), Uncompiled> {
        if let Some(place) = VARIABLES.iter().position(|known| *known == name) {
            self.asks_for[place] = true;
        }
        if self.scope.contains(&name) {
            return Ok(());
        }
        Err(Uncompiled(format!("undeclared reference to {name:?}: accepted are {}", VARIABLES.join(", "))))
    }
}

fn is_literal(list: &IdedExpr) -> bool {
    match &list.expr {
        Expr::List(list) => list.elements.iter().all(|element| matches!(element.expr, Expr::Literal(_))),
        _ => false,
    }
}

fn quadratic(what: &str) -> Uncompiled {
    Uncompiled(format!("{what} inside of all, exists, map or filter: its cost would grow with the square of an object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given(serde_json::Value);

    impl Facts for Given {
        fn request(&self) -> Option<serde_json::Value> {
            Some(self.0["request"].clone())
        }
        fn object(&self) -> Option<serde_json::Value> {
            self.0.get("object").cloned()
        }
        fn old_object(&self) -> Option<serde_json::Value> {
            Some(serde_json::Value::Null)
        }
    }

    fn holds(text: &str) -> Option<bool> {
        let given = Given(serde_json::json!({
            "request": {"operation": "UPDATE", "name": "db", "userInfo": {"username": "alice", "groups": ["dev", "ops"]}},
            "object": {"metadata": {"labels": {"tier": "gold"}}, "spec": {"replicas": 3, "list": [{"a": 1}, {"a": 2}]}},
        }));
        let env = Arc::new(Env::stdlib());
        Expression::compile(text).unwrap().holds(&mut Values::new(&env, &given))
    }

    #[test]
    fn an_expression_holds_does_not_or_fails() {
        let cases = [
            ("request.userInfo.username.startsWith('al')", Some(true)),
            ("'ops' in request.userInfo.groups", Some(true)),
            ("request.userInfo.groups.exists(g, g == 'admins')", Some(false)),
            ("has(request.subResource) && request.subResource == 'scale'", Some(false)),
            ("request.subResource == 'scale'", None),
            ("object.spec.replicas > 2", Some(true)),
            ("object.metadata.labels.tier in ['gold', 'silver']", Some(true)),
            ("object.spec.list.all(x, x.a > 0)", Some(true)),
            ("object.spec.list.map(x, x.a).size() == 2", Some(true)),
            ("oldObject == null", Some(true)),
            ("object.status.phase == 'x' || request.name == 'db'", Some(true)),
            ("request.name.matches('^d')", Some(true)),
            ("request.name", None),
            ("request.operation in ['CREATE', 'DELETE'] ? true : request.name != ''", Some(true)),
        ];
        for (text, expected) in cases {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_does_not_compile_says_why() {
        let deep = format!("{}true{}", "(".repeat(60), ")".repeat(60));
        let cases = [
            ("request.name ==", "Syntax error"),
            ("req.name == 'x'", "undeclared reference to \"req\": accepted are request, object, oldObject"),
            ("true || nope", "undeclared reference to \"nope\""),
            ("frobnicate(request.name)", "undeclared function \"frobnicate\""),
            ("request.name.frobnicate()", "undeclared function \"frobnicate\""),
            ("object.a.all(x, object.b.all(y, x == y))", "square of an object"),
            ("object.a.all(x, x in object.b)", "square of an object"),
            ("authorizer.path('/healthz').check('get').allowed()", "undeclared function \"allowed\""),
            (deep.as_str(), "nested more than 48 deep"),
        ];
        for (text, told) in cases {
            let error = Expression::compile(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(Expression::compile(&"!".repeat(2_000)).is_err());
        assert!(Expression::compile(&format!("request{}", ".a".repeat(1_000))).is_err());
    }

    #[test]
    fn every_function_that_is_accepted_is_there() {
        let env = Arc::new(Env::stdlib());
        for function in FUNCTIONS {
            let is_known = |text: String| match Program::compile(&text) {
                Ok(program) => {
                    let told = format!("{:?}", program.execute(&Context::with_env(Arc::clone(&env))));
                    !told.contains("UndeclaredReference")
                }
                // A macro, which says itself what is wrong with this use of it.
                Err(_) => true,
            };
            assert!(is_known(format!("{function}(1)")) || is_known(format!("'a'.{function}('b')")), "{function}");
        }
    }
}
