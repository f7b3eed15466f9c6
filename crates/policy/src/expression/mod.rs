//! CEL over the admission request, as in matchConditions: `request`, `object`, `oldObject`.
//!
//! What is written here is compiled once, and checked for what the compiler itself does not look at: names that nobody
//! declared, functions that are not there, and work that could grow faster than an object ([`mod@cost`]). What is left grows
//! with the object, is known before it is done, and has a bound: [`STEPS_MAX`].

mod cost;
mod values;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::{Context, Env, IdedExpr, Value};
use regex::Regex;

use cost::Cost;
pub(crate) use values::Values;

/// Larger objects are not shown to expressions: one that asks for them fails.
pub const EXPRESSION_OBJECT_BYTES_MAX: usize = 128 * 1024;

/// What all expressions together may do about one request, in steps of some tens of nanoseconds. An ordinary expression
/// takes some tens, and a loop over a Deployment's containers some hundreds. One for which too few are left fails.
const STEPS_MAX: u64 = 2_000_000;

/// Of a text and of the tree it parses to: evaluation recurses.
const DEPTH_MAX: usize = 48;
const TEXT_BYTES_MAX: usize = 2_048;
const VARIABLES: [&str; 3] = ["request", "object", "oldObject"];

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
    tree: IdedExpr,
    /// Compiled once; in the tree they are numbers.
    regexes: Arc<[Regex]>,
    asks_for: [bool; 3],
    cost: Cost,
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
        let parsed = catch_unwind(AssertUnwindSafe(|| Env::stdlib().with_optional_support(false).parser().parse(text)));
        let mut tree = parsed
            .map_err(|_| Uncompiled("the compiler cannot take it".to_owned()))?
            .map_err(|errors| Uncompiled(errors.to_string().trim().to_owned()))?;
        let checked = cost::check(&mut tree)?;
        Ok(Self { tree, regexes: checked.regexes.into(), asks_for: checked.asks_for, cost: checked.cost })
    }

    /// None where it fails, or gives neither true nor false.
    pub(crate) fn holds(&self, values: &mut Values<'_>) -> Option<bool> {
        values.spend(&self.cost, self.asks_for)?;
        let shown = values.shown();
        let mut context = Context::with_env(Arc::clone(values.env()));
        context.set_variable_resolver(&shown);
        if !self.regexes.is_empty() {
            let regexes = Arc::clone(&self.regexes);
            let matches = move |text: Arc<String>, number: i64| {
                usize::try_from(number).ok().and_then(|number| regexes.get(number)).is_some_and(|it| it.is_match(&text))
            };
            context.add_function(cost::MATCHES, matches).ok()?;
        }
        match catch_unwind(AssertUnwindSafe(|| Value::resolve(&self.tree, &context))) {
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
            "object": {"metadata": {"labels": {"tier": "gold"}}, "spec": {
                "replicas": 3, "negative": -1, "ratio": 1.5, "huge": 18446744073709551615_u64,
                "list": [{"a": 1}, {"a": 2}], "numbers": [1, 2, 3], "name": "db",
            }},
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
            // Whole numbers are int, as the API server has them.
            ("object.spec.replicas + 1 == 4", Some(true)),
            ("object.spec.replicas - 4 < 0", Some(true)),
            ("object.spec.replicas * 2 == 6", Some(true)),
            ("object.spec.replicas % 2 == 1", Some(true)),
            ("object.spec.replicas / 2 == 1", Some(true)),
            ("-object.spec.replicas < 0", Some(true)),
            ("object.spec.replicas > object.spec.negative", Some(true)),
            ("object.spec.replicas == 3.0 && object.spec.ratio > 1", Some(true)),
            ("object.spec.ratio + 1.0 == 2.5", Some(true)),
            ("object.spec.huge > 9223372036854775807", Some(true)),
            ("type(object.spec.replicas) == int", Some(true)),
            ("type(object.spec.ratio) == double && type(object.spec) == map", Some(true)),
            ("type(object.spec.list) == list && type(oldObject) == null_type", Some(true)),
            ("type(request.name) == string && type(true) == bool && type(int) == type", Some(true)),
            ("object.spec.numbers == [1, 2, 3] && 3 in object.spec.numbers", Some(true)),
            ("object.spec.numbers.map(x, x + 1) == [2, 3, 4]", Some(true)),
            ("object.spec.numbers[0] == 1 && object.spec['replicas'] == 3", Some(true)),
            ("int(string(object.spec.replicas)) == 3", Some(true)),
            // What a loop may do.
            ("object.spec.numbers.filter(x, x > 1).size() == 2", Some(true)),
            ("object.spec.numbers.exists_one(x, x == 2)", Some(true)),
            ("object.spec.numbers.map(x, x > 1, x * 2) == [4, 6]", Some(true)),
            ("object.spec.numbers.filter(x, x > 1).all(x, x in [2, 3])", Some(true)),
            ("object.spec.list.exists(x, has(x.a) && x.a == object.spec.negative)", Some(false)),
            ("request.userInfo.groups.exists(g, g == request.name || request.name.startsWith('d'))", Some(true)),
            ("request.userInfo.groups.all(g, g.matches('^[a-z]+$') && g.size() == 3)", Some(true)),
            ("object.spec.exists(key, key.contains('replica'))", Some(true)),
            ("object.spec.list.all(object, object.a > 0)", Some(true)),
            ("['db', 'web'].exists(n, n == request.name)", Some(true)),
            ("matches(request.name, '^d') && !request.name.matches('^e')", Some(true)),
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
            ("object.l.all(x, object.a == object.b)", "== between two values that are not of the entry inside of all"),
            ("object.l.all(x, object.a != object)", "!= between"),
            ("object.l.all(x, object.a < 3)", "< of a value that is not of the entry"),
            ("object.l.all(x, x < object)", "< of a value that is not of the entry"),
            ("object.l.all(x, object.t.contains('a'))", "contains of a value that is not of the entry"),
            ("object.l.all(x, x.contains(object.t))", "contains of a value that is not of the entry"),
            ("object.l.all(x, object.t.matches('a+b'))", "matches of a value that is not of the entry"),
            ("object.l.all(x, object.t.size() > x)", "size of a value that is not of the entry"),
            ("object.l.all(x, x.m[object.t])", "[…] of a value that is not of the entry"),
            ("object.l.map(x, object.t + 'a').size() > 0", "+ without a number that is written out inside of all"),
            ("object.l.map(x, x + x).size() > 0", "+ without a number"),
            ("object.l.map(x, [x, x]).size() > 0", "a list inside of all, exists, map or filter"),
            ("object.l.map(x, {'a': x}).size() > 0", "a map inside of"),
            ("object.l.map(x, object.t).size() > 0", "map of a value that is not of the entry"),
            ("object.l.map(x, x > 1 ? x : object.t).size() > 0", "map of a value that is not of the entry"),
            ("object.l.map(x, 'a text as long as this one').size() > 0", "map to a text that is written out"),
            ("object.l.map(x, string(x)).size() > 0", "string() inside of"),
            ("object.l.filter(x, x == 1).all(y, object.l.exists(z, z == y))", "another all, exists"),
            ("request.name.matches(object.t)", "the regex must be written out"),
            ("request.name.matches('(')", "matches: regex parse error"),
            (r"'x'.matches('\\pL{200}')", "a regex that takes more than"),
            ("object.?a == 1", "unsupported"),
            ("authorizer.path('/healthz').check('get').allowed()", "undeclared reference to \"authorizer\""),
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
    fn an_ordinary_regex_is_accepted() {
        let regexes = [
            "^registry[.]example[.]org/[a-z]+/[^:]+:[0-9.]+$",
            "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            r"^\\d+(\\.\\d+)*$",
            "^(?i)(dev|test|prod)-[^/]+$",
            r"\\bsecret\\b",
        ];
        for regex in regexes {
            let compiled = Expression::compile(&format!("request.name.matches('{regex}')"));
            assert!(compiled.is_ok(), "{regex}: {compiled:?}");
        }
    }

    #[test]
    fn every_function_that_is_accepted_is_there() {
        let env = Arc::new(Env::stdlib());
        for function in cost::FUNCTIONS {
            let is_known = |text: String| match cel::Program::compile(&text) {
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
