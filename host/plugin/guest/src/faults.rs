//! Ways to misbehave, chosen by name, that storage, network and image drivers have in common. All three guests have this module.

use hutch_sdk::host::Level;
use hutch_sdk::{Error, Host, Result, TreePath};

/// Keys and values.
pub(crate) type Pairs = Vec<(String, String)>;

/// The value of `key`; empty where there is none.
pub(crate) fn option<'a>(options: &'a [(String, String)], key: &str) -> &'a str {
    options.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
}

/// What the object's configuration wants to go wrong in `function`: the value of `fault.FUNCTION`.
pub(crate) fn wanted<'a>(config: &'a [(String, String)], function: &str) -> &'a str {
    option(config, &format!("fault.{function}"))
}

/// Goes wrong in `function` as the object's configuration wants it, or the operator's settings, if that is a way that every
/// function has.
pub(crate) fn gate(host: &impl Host, config: &[(String, String)], function: &str) -> Result<()> {
    match wanted(config, function) {
        "" => match host.config_get(&format!("fault.{function}")) {
            Some(fault) => misbehave(host, &fault).map(drop),
            None => Ok(()),
        },
        // Ways of the function's own.
        fault if fault.starts_with("answer-") => Ok(()),
        fault => misbehave(host, fault).map(drop),
    }
}

/// A place in the pool, whatever it is.
pub(crate) fn at(path: &str) -> TreePath {
    TreePath {
        root: "pool".to_owned(),
        path: path.to_owned(),
    }
}

fn deeper(n: u64) -> u64 {
    let local = [n; 64];
    if std::hint::black_box(n) == u64::MAX {
        0
    } else {
        deeper(n + 1) + std::hint::black_box(local)[3]
    }
}

fn eat() -> Pairs {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![1; 1 << 20]);
        std::hint::black_box(&all);
    }
}

/// What a program can find out of the machine through WASI: nothing.
fn look_around() -> Pairs {
    let variables = std::env::vars().count();
    let arguments = std::env::args().count();
    let root = std::fs::read_dir("/").is_ok();
    let connected = std::net::TcpStream::connect("127.0.0.1:80").is_ok();
    let written = std::fs::write("/tmp/escaped", b"x").is_ok();
    vec![
        ("variables".to_owned(), variables.to_string()),
        ("arguments".to_owned(), arguments.to_string()),
        ("root".to_owned(), root.to_string()),
        ("connected".to_owned(), connected.to_string()),
        ("written".to_owned(), written.to_string()),
    ]
}

/// A text that is not what a `String` promises: `len` bytes from `at` on, whatever is there.
#[allow(unsafe_code, reason = "the host must bear a guest that breaks every promise")]
fn lie(at: *mut u8, len: usize) -> String {
    // SAFETY: none is claimed. The text is handed to the host at once, which reads it out of the guest's memory and must
    // not trust it; the guest itself never looks at it.
    unsafe { String::from_raw_parts(at, len, len) }
}

/// Answers that can't be read, or that are far larger than the memory that they lie in.
fn break_promises(fault: &str) -> Pairs {
    let text = Box::leak(vec![0xff_u8; 1 << 20].into_boxed_slice()).as_mut_ptr();
    let pair = |value| ("key".to_owned(), value);
    match fault {
        "not-utf8" => vec![pair(lie(text, 4))],
        "out-of-bounds" => vec![pair(lie(text, 0x7fff_0000))],
        _ => {
            let text = Box::leak(vec![b'x'; 1 << 20].into_boxed_slice()).as_mut_ptr();
            (0..50_000).map(|_| (lie(text, 1), lie(text, 1 << 20))).collect()
        }
    }
}

/// Does what `fault` says.
pub(crate) fn misbehave(host: &impl Host, fault: &str) -> Result<Pairs> {
    match fault {
        "trap" => panic!("deliberately"),
        "loop" => loop {
            std::hint::black_box(0);
        },
        "recursion" => Ok(vec![("depth".to_owned(), deeper(0).to_string())]),
        "memory" => Ok(eat()),
        "sleep" => {
            std::thread::sleep(std::time::Duration::from_secs(3600));
            Ok(Pairs::new())
        }
        "exit" => std::process::exit(3),
        "flood" => {
            for i in 0..10_000 {
                host.log(Level::Info, &format!("line {i}"), &[]);
            }
            Ok(Pairs::new())
        }
        "many-options" => Ok((0..5000).map(|i| (format!("k{i}"), String::new())).collect()),
        "not-utf8" | "out-of-bounds" | "amplified" => Ok(break_promises(fault)),
        "twice" => Ok(vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]),
        "own-error" => Err(Error {
            code: "org.hutch.test.faulty/odd".to_owned(),
            message: "the thing is\nodd \u{1b}[31m".to_owned(),
            retryable: true,
            details: vec![("key".to_owned(), "value".to_owned())],
        }),
        "bad-code" => Err(Error::new("NOT a code!", "x".repeat(100_000))),
        "not-requested" => host.link_set_up("eth0", false).map(|()| Pairs::new()),
        "not-granted" => host.fs_make_dir(&at("a"), 0o755).map(|()| Pairs::new()),
        "architecture" => Ok(vec![("architecture".to_owned(), host.system_architecture())]),
        "look-around" => Ok(look_around()),
        // Places that are no business of a driver's. Whatever comes back is the proof of an escape.
        "fs-above" => found(host, &at("../../state.db")),
        "fs-absolute" => found(host, &at("/etc/shadow")),
        "fs-through-link" => found(host, &at("container/victim/rootfs/outside/shadow")),
        "fs-other-root" => found(
            host,
            &TreePath {
                root: "testpool".to_owned(),
                path: "pool.json".to_owned(),
            },
        ),
        "other-link" => host.link_set_up("testbr0", false).map(|()| Pairs::new()),
        "other-service" => host
            .service_ensure("shell", "sh", &["-c".to_owned(), "id".to_owned()], None)
            .map(|()| Pairs::new()),
        "blocked" => {
            let answer = host.fs_stat(&at("blocked"));
            // A function that took too long does not end the guest, which may tidy up and say why.
            answer.map(|_| Pairs::new()).map_err(|e| Error {
                message: format!("gave up: {}", e.message),
                ..e
            })
        }
        "cancelled" => Ok(vec![("cancelled".to_owned(), host.cancelled().to_string())]),
        "event" => host.watch_changed("state").map(|()| Pairs::new()),
        "measure" => {
            host.metric_count("things", 3);
            host.metric_gauge("level", -7);
            Ok(vec![(
                "colour".to_owned(),
                host.config_get("colour").unwrap_or_default(),
            )])
        }
        other => Err(Error::invalid(format!("no fault {other:?}"))),
    }
}

/// Reads a file that the host must not show.
fn found(host: &impl Host, place: &TreePath) -> Result<Pairs> {
    let content = host.fs_read_file(place)?;
    let size = content.map_or(0, |content| content.len());
    host.log(
        Level::Error,
        "the host let me out",
        &[("bytes".to_owned(), size.to_string())],
    );
    Ok(vec![("bytes".to_owned(), size.to_string())])
}
