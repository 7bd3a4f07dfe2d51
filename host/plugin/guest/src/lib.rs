//! A storage driver that misbehaves on request: `validate` does what the option `fault` says, and `mount` answers what the
//! volume's option `plan` says.

use hutch_sdk::host::Level;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, Snapshot, Volume, VolumeRef, VolumeState};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

/// The driver.
#[derive(Debug)]
pub struct Faulty;

hutch_sdk::storage_plugin! { driver: Faulty, exports: [pool, volume, snapshot] }

type Pairs = Vec<(String, String)>;

fn option<'a>(options: &'a [(String, String)], key: &str) -> &'a str {
    options.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
}

fn at(path: &str) -> TreePath {
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

fn misbehave(host: &impl Host, fault: &str) -> Result<Pairs> {
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

impl Pool for Faulty {
    fn validate(host: &impl Host, config: &[(String, String)]) -> Result<Pairs> {
        host.log(
            Level::Info,
            "asked to validate",
            &[("options".to_owned(), config.len().to_string())],
        );
        match option(config, "fault") {
            "" => Ok(config.to_vec()),
            fault => misbehave(host, fault),
        }
    }

    fn create(_: &impl Host, _: &PoolRef) -> Result<()> {
        Ok(())
    }

    fn open(_: &impl Host, _: &PoolRef) -> Result<()> {
        Ok(())
    }

    fn delete(_: &impl Host, _: &PoolRef) -> Result<()> {
        Ok(())
    }

    fn space(_: &impl Host, _: &PoolRef) -> Result<PoolSpace> {
        Ok(PoolSpace {
            total_bytes: 1,
            used_bytes: 2,
            total_inodes: 0,
            used_inodes: 0,
        })
    }

    fn reconcile(_: &impl Host, _: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>> {
        Ok(valid
            .iter()
            .map(|volume| format!("left {} alone", volume.name))
            .collect())
    }
}

impl Volume for Faulty {
    fn create(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<()> {
        Ok(())
    }

    fn begin_fill(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<TreePath> {
        Ok(TreePath {
            root: "somewhere else".to_owned(),
            path: String::new(),
        })
    }

    fn end_fill(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<()> {
        Ok(())
    }

    fn create_from_image(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &VolumeRef, _: bool) -> Result<()> {
        Ok(())
    }

    fn delete(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<()> {
        Ok(())
    }

    fn rename(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str) -> Result<()> {
        Ok(())
    }

    fn mount(_: &impl Host, _: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        let path = match option(&volume.config, "plan") {
            "escape" => "volumes/../../../etc",
            "absolute" => "/etc",
            _ => "volumes/one",
        };
        Ok(MountPlan {
            kind: "bind".to_owned(),
            layers: vec![at(path)],
            upper: None,
            work: None,
            options: Pairs::new(),
        })
    }

    fn usage(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl Snapshot for Faulty {
    fn create(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str, _: bool) -> Result<()> {
        Ok(())
    }

    fn delete(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str) -> Result<()> {
        Ok(())
    }

    fn rename(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    fn restore(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str) -> Result<()> {
        Ok(())
    }

    fn mount(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str) -> Result<MountPlan> {
        Err(Error::unsupported("no"))
    }
}
