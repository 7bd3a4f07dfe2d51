//! Templates of images, rendered.
//!
//! LXD and Incus write them for pongo2, which is Django's language in Go; what renders them here speaks Jinja2's, which is the same but
//! for some spellings of expressions. Those are translated: `|default:"x"`, `&&`, `||`, `!` and loops over the pairs of a map. What
//! loads other files (`include`, `extends`) is not available, and an error.

use std::collections::BTreeMap;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metadata::TEMPLATES_DIR;

/// Bytes that one template may become.
const MOST_OUTPUT: usize = 1 << 20;
/// Steps that rendering one may take (instructions of minijinja's machine). Those of distributions take some tens.
const MOST_STEPS: u64 = 500_000;

/// A template to render, which may take half a million steps and become a mebibyte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Its file name in `templates/`.
    pub file: String,
    /// What is in it.
    pub text: String,
    /// The path in the container of what is made from it: `path` in the template.
    pub path: String,
    /// Why it is made, `create`, `copy`, `rename` or `start`: `trigger` in the template.
    pub trigger: String,
    /// `properties` in the template.
    pub properties: BTreeMap<String, String>,
}

/// What all templates of an instance can use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// `instance` and `container`: `name`, `type`, `architecture`, `ephemeral`, `privileged`.
    pub instance: BTreeMap<String, String>,
    /// `config`, with that of the profiles, and what `config_get(key, default)` looks in.
    pub config: BTreeMap<String, String>,
    /// `devices`, with those of the profiles.
    pub devices: BTreeMap<String, BTreeMap<String, String>>,
}

/// Renders all of them.
pub(crate) fn render(pages: &[Page], surroundings: &Surroundings) -> Result<Vec<String>> {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    let mut environment = Environment::new();
    environment.set_syntax(syntax.map_err(|error| Error::Process(error.to_string()))?);
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(MOST_STEPS));
    let config = surroundings.config.clone();
    environment.add_function("config_get", move |key: &str, default: Option<Value>| {
        let value = config
            .get(key)
            .map(|value| Value::from(value.trim_end_matches(['\r', '\n'])));
        value.or(default).unwrap_or(Value::UNDEFINED)
    });
    // Jinja's replaces only what is undefined.
    environment.add_filter(
        "default",
        |value: Value, default: Value| {
            if value.is_true() { value } else { default }
        },
    );
    let instance = Value::from(surroundings.instance.clone());
    for (name, value) in [
        ("container", instance.clone()),
        ("instance", instance),
        ("config", Value::from(surroundings.config.clone())),
        ("devices", Value::from(surroundings.devices.clone())),
    ] {
        environment.add_global(name, value);
    }
    pages.iter().map(|page| render_one(&environment, page)).collect()
}

fn render_one(environment: &Environment<'_>, page: &Page) -> Result<String> {
    let file = format!("{TEMPLATES_DIR}/{}", page.file);
    let invalid = |error: minijinja::Error| Error::Invalid {
        file: file.clone(),
        reason: reason(&error),
    };
    let source = translate(&page.text);
    let template = environment
        .template_from_named_str(&page.file, &source)
        .map_err(invalid)?;
    let context = BTreeMap::from([
        ("path", Value::from(page.path.as_str())),
        ("trigger", Value::from(page.trigger.as_str())),
        ("properties", Value::from(page.properties.clone())),
    ]);
    let mut output = Output::default();
    template
        .render_captured_to(Value::from(context), &mut output)
        .map_err(invalid)?;
    if output.is_over {
        return Err(Error::Limit {
            limit: MOST_OUTPUT as u64,
            unit: format!("bytes that {file} may become"),
        });
    }
    String::from_utf8(output.text).map_err(|error| Error::Invalid {
        file,
        reason: error.to_string(),
    })
}

/// What is wrong, where, and with which line.
fn reason(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {detail}"),
        None => detail,
    }
}

/// Takes up to [`MOST_OUTPUT`] bytes.
#[derive(Default)]
struct Output {
    text: Vec<u8>,
    is_over: bool,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_over |= self.text.len() + bytes.len() > MOST_OUTPUT;
        if !self.is_over {
            self.text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pongo2's spellings as Jinja2's, in tags only.
fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let end = match tag.as_bytes().get(1) {
            Some(b'{') => end_of_tag(tag, "}}"),
            Some(b'%') => end_of_tag(tag, "%}"),
            Some(b'#') => tag.find("#}").map(|at| (at + 2, true)),
            _ => Some((1, true)),
        };
        // What does not end is for the parser to complain about.
        let (end, plain) = end.unwrap_or((tag.len(), true));
        let (tag, after) = tag.split_at(end);
        if plain {
            out.push_str(tag);
        } else {
            out.push_str(&translate_tag(tag));
        }
        rest = after;
    }
    out + rest
}

/// Where a tag ends, whose strings may hold what ends tags; it is not to be left as it is.
fn end_of_tag(tag: &str, end: &str) -> Option<(usize, bool)> {
    let mut quote = None;
    let mut at = 2;
    while at < tag.len() {
        let byte = tag.as_bytes()[at];
        match quote {
            Some(_) if byte == b'\\' => at += 1,
            Some(open) if byte == open => quote = None,
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            None if tag.as_bytes()[at..].starts_with(end.as_bytes()) => return Some((at + end.len(), false)),
            _ => {}
        }
        at += 1;
    }
    None
}

fn translate_tag(tag: &str) -> String {
    let mut out = String::with_capacity(tag.len() + 8);
    let mut rest = tag;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' | '\'' => {
                let length = string_length(rest);
                out.push_str(&rest[..length]);
                length
            }
            '&' if rest.starts_with("&&") => {
                out.push_str(" and ");
                2
            }
            '|' if rest.starts_with("||") => {
                out.push_str(" or ");
                2
            }
            '!' if !rest.starts_with("!=") => {
                out.push_str(" not ");
                1
            }
            '|' => filter_with_argument(rest, &mut out),
            other => {
                out.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    loop_over_pairs(&out).unwrap_or(out)
}

/// The length of the string that `text` begins with, quotes included.
fn string_length(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut at = 1;
    while at < text.len() {
        match text.as_bytes()[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Writes `|name:argument` as `|name(argument)`, or the bar alone; answers how much it has taken of `text`.
fn filter_with_argument(text: &str, out: &mut String) -> usize {
    let name_length =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let inner = text[1..].trim_start();
    let name = &inner[..name_length(inner)];
    let argument = inner[name.len()..].strip_prefix(':').map(str::trim_start);
    if let (false, Some(argument)) = (name.is_empty(), argument) {
        let length = match argument.chars().next() {
            Some('"' | '\'') => string_length(argument),
            _ => {
                let is_plain = |c: char| c.is_alphanumeric() || "_.-".contains(c);
                argument.len() - argument.trim_start_matches(is_plain).len()
            }
        };
        if length > 0 {
            out.push_str(&format!("|{name}({})", &argument[..length]));
            return text.len() - argument.len() + length;
        }
    }
    out.push('|');
    1
}

/// `{% for key, value in map %}` with the pairs named.
fn loop_over_pairs(tag: &str) -> Option<String> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let (inner, close) = match inner.strip_suffix('-') {
        Some(inner) => (inner, "-%}"),
        None => (inner, "%}"),
    };
    let words = inner.trim_start_matches('-').trim_start().strip_prefix("for ")?;
    let (names, map) = words.split_once(" in ")?;
    let is_pair = names.split(',').count() == 2;
    if !is_pair || map.contains("items") {
        return None;
    }
    let head = tag.len() - tag.trim_start_matches(['{', '%', '-']).len();
    Some(format!("{} for {names} in {}|items {close}", &tag[..head], map.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        entries.iter().map(owned).collect()
    }

    fn rendered(text: &str) -> Result<String> {
        let page = Page {
            file: "t.tpl".to_owned(),
            text: text.to_owned(),
            path: "/etc/t".to_owned(),
            trigger: "create".to_owned(),
            properties: map(&[("default", "#cloud-config\n{}")]),
        };
        let surroundings = Surroundings {
            instance: map(&[("name", "c1"), ("type", "container")]),
            config: map(&[("user.meta-data", "a: <b>\n"), ("user.x", "1")]),
            devices: BTreeMap::from([("eth0".to_owned(), map(&[("type", "nic")]))]),
        };
        Ok(render(&[page], &surroundings)?.remove(0))
    }

    #[test]
    fn templates_of_distributions() {
        // As distrobuilder and Ubuntu's builders write them.
        for (text, expected) in [
            ("{{ container.name }}\n", "c1\n"),
            ("127.0.1.1\t{{ instance.name }}\n", "127.0.1.1\tc1\n"),
            (
                "#cloud-config\ninstance-id: {{ container.name }}\n{{ config_get(\"user.meta-data\", \"\") }}\n",
                "#cloud-config\ninstance-id: c1\na: <b>\n",
            ),
            (
                "{{ config_get(\"user.user-data\", properties.default) }}",
                "#cloud-config\n{}",
            ),
            (
                "{% if config_get(\"user.network-config\", \"\") == \"\" %}version: 1\n\
                 name: {% if instance.type == \"virtual-machine\" %}enp5s0{% else %}eth0{% endif %}\n\
                 {% else %}{{ config_get(\"user.network-config\", \"\") }}{% endif %}",
                "version: 1\nname: eth0\n",
            ),
            ("{{ trigger }} {{ path }}{# nothing #}", "create /etc/t"),
            ("{{ no.such.thing }}|{ x }", "|{ x }"),
        ] {
            assert_eq!(rendered(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn pongos_spellings() {
        for (text, expected) in [
            ("{{ missing|default:\"a|b:c }}\" }}{{ ''|default:1 }}", "a|b:c }}1"),
            (
                "{{ container.name|upper }} {{ missing|default:container.name|upper }}",
                "C1 C1",
            ),
            (
                "{% if container.name == \"c1\" && !missing || missing %}yes{% endif %}",
                "yes",
            ),
            ("{% if container.name != \"c1\" %}no{% endif %}", ""),
            (
                "{% for key, value in config %}{{ key }}={{ value }};{% endfor %}",
                "user.meta-data=a: <b>\n;user.x=1;",
            ),
            (
                "{%- for name, device in devices -%} {{ name }} {{ device.type }} {%- endfor -%}",
                "eth0 nic",
            ),
            (
                "{% for key in config %}{{ key }},{% endfor %}",
                "user.meta-data,user.x,",
            ),
        ] {
            assert_eq!(rendered(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("one\n{{ nothing() }}", "templates/t.tpl is invalid: line 2: "),
            ("{% if %}", "templates/t.tpl is invalid: line 1: "),
            ("{{ unfinished", "templates/t.tpl is invalid: line 1: "),
            ("{% include \"/etc/passwd\" %}", "templates/t.tpl is invalid: line 1: "),
            (
                "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
                "fuel",
            ),
            (
                "{% set x %}{{ \"1234567890\" * 20000 }}{% endset %}{% for i in range(9) %}{{ x }}{% endfor %}",
                "bytes that",
            ),
        ] {
            let message = rendered(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn translating_never_fails() {
        use proptest::prelude::*;
        proptest!(|(text in "[{}%#|:!&\"'\\\\a-c é,\n-]{0,40}")| {
            translate(&text);
        });
    }
}
