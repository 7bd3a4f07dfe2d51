//! Attempts to use up the host, and to find something through WASI.

use hutch_sdk::Host;
use hutch_sdk::host::Level;

use crate::{Attempt, Outcome, at, escaped};

pub(crate) fn attempt(host: &impl Host, name: &str) -> Attempt {
    match name {
        "resource.time" => loop {
            std::hint::black_box(0);
        },
        "resource.sleep" => {
            std::thread::sleep(std::time::Duration::from_secs(3600));
            escaped("slept for an hour")
        }
        "resource.host-calls" => loop {
            // Each is short, and there is no end of them.
            host.fs_stat(&at("planted"))?;
        },
        "resource.memory" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            for _ in 0..4096 {
                all.push(vec![1; 1 << 20]);
                std::hint::black_box(&all);
            }
            escaped("has 4 GiB")
        }
        "resource.stack" => escaped(format!("went {} deep", deeper(0))),
        "resource.log" => {
            for i in 0..2000 {
                host.log(Level::Error, &format!("line {i} {}", "x".repeat(1000)), &[]);
            }
            Ok(Outcome::Harmless)
        }
        "resource.log-forged" => {
            host.log(
                Level::Info,
                "done\n2026-01-01T00:00:00Z ERROR hutchd: forged \u{1b}[31m",
                &[],
            );
            Ok(Outcome::Harmless)
        }
        "resource.metrics" => {
            for i in 0..500 {
                host.metric_count(&format!("name{i}"), u64::MAX);
                host.metric_gauge(&format!("name{i}\nforged 1"), i64::MIN);
            }
            Ok(Outcome::Harmless)
        }
        "resource.progress" => {
            for i in 0..500 {
                host.progress(&"stage".repeat(1000), u64::MAX - i, Some(0));
            }
            Ok(Outcome::Harmless)
        }
        "resource.exit" => std::process::exit(0),
        "resource.trap" => panic!("deliberately"),
        "wasi.files" => found(
            "a directory",
            std::fs::read_dir("/").is_ok() || std::fs::write("/tmp/escaped", b"x").is_ok(),
        ),
        "wasi.environment" => found("a variable", std::env::vars().count() + std::env::args().count() > 0),
        "wasi.network" => found(
            "the network",
            std::net::TcpStream::connect("127.0.0.1:80").is_ok()
                || std::net::TcpListener::bind("127.0.0.1:0").is_ok()
                || std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
        ),
        "wasi.input" => {
            let mut text = String::new();
            let read = std::io::Read::read_to_string(&mut std::io::stdin(), &mut text);
            found("an input", read.is_ok_and(|read| read > 0))
        }
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

fn found(what: &str, there: bool) -> Attempt {
    if there {
        escaped(format!("found {what}"))
    } else {
        Ok(Outcome::Harmless)
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
