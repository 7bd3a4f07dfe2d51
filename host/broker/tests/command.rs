//! Programs run to their end. Needs root and the unified control group hierarchy.

mod common;

use std::time::{Duration, Instant};

use common::{Host, at, everything, host, isolated};
use hutch_broker::{CallContext, CommandOutput, CommandPermission, Grants, Permissions, Request, Response};
use hutch_sys::cgroup::Hierarchies;

fn command(program: &str, args: &[&str], timeout: Option<u64>) -> CommandPermission {
    let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
    CommandPermission {
        program: program.into(),
        args: strings(args),
        deny: strings(&["*forbidden*"]),
        env: strings(&["WORD"]),
        timeout,
    }
}

fn context(host: &Host, pool: &std::path::Path, list: Vec<CommandPermission>) -> CallContext {
    let mut cx = host.with_root(pool);
    cx.subject = std::sync::Arc::new(common::subject(Grants::as_requested(Permissions {
        command: list,
        ..everything()
    })));
    cx
}

fn request(program: &str, args: &[&str]) -> Request {
    Request::CommandRun {
        program: program.into(),
        args: args.iter().map(|&a| a.to_owned()).collect(),
        env: vec![],
        trees: vec![at("tree")],
    }
}

async fn run(host: &Host, cx: &CallContext, request: Request) -> CommandOutput {
    match host.call(cx, request).await {
        Ok(Response::CommandOutput(output)) => output,
        other => panic!("{other:?}"),
    }
}

/// Control groups of commands that are there now.
fn groups(dir: &std::path::Path) -> Vec<String> {
    let prefix = format!(
        "command-{}-",
        hutch_broker::state_id(&dir.join("state").canonicalize().unwrap())
    );
    let parent = Hierarchies::find()
        .unified()
        .unwrap()
        .join(hutch_container::CGROUP_PARENT);
    let entries = std::fs::read_dir(parent).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[test]
fn a_program_gets_its_arguments_and_nothing_else() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir_all(pool.join("tree")).unwrap();
        let cx = context(
            &host,
            &pool,
            vec![command("sh", &["-c", "*", "**"], None), command("env", &[], None)],
        );

        // The shell is a granted program here and not how programs are run: metacharacters stay what they are.
        let output = run(
            &host,
            &cx,
            request(
                "sh",
                &[
                    "-c",
                    "printf '%s|' \"$@\"; echo err >&2; exit 7",
                    "sh",
                    "a b",
                    "$HOME;x",
                    "{tree:0}/f",
                ],
            ),
        )
        .await;
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(
            told.starts_with("a b|$HOME;x|/") && told.ends_with("/tree/f|"),
            "{told}"
        );
        assert_eq!((output.status, output.stderr), (7, b"err\n".to_vec()));
        let output = run(
            &host,
            &cx,
            Request::CommandRun {
                program: "env".into(),
                args: vec![],
                env: vec![("WORD".into(), "x".into())],
                trees: vec![],
            },
        )
        .await;
        let mut lines: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "WORD=x"]);
        assert_eq!(run(&host, &cx, request("sh", &["-c", "kill -9 $$"])).await.status, 137);

        // What it mounts is its own, and what it leaves running goes with it.
        let place = pool.join("tree");
        let script = "mount -t tmpfs none \"$1\" && touch \"$1/inside\"; sleep 1000 & echo $!; grep -c sleep /dev/null; cat /proc/self/cgroup";
        let start = Instant::now();
        let output = run(&host, &cx, request("sh", &["-c", script, "sh", "{tree:0}"])).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "{text}");
        assert!(text.contains("/hutch/command-"), "{text}");
        assert!(!place.join("inside").exists());
        let left: u32 = text.lines().next().unwrap().parse().unwrap();
        // Dead, even if nobody has asked for its status yet.
        let state = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");

        let output = run(&host, &cx, request("sh", &["-c", "seq 1 200000; echo end"])).await;
        assert_eq!(output.stdout.len(), 256 << 10);
        assert!(output.stdout.ends_with(b"200000\nend\n"));
        assert!(groups(&dir).is_empty());

        for (request, code) in [
            (request("sh", &["-x", "y"]), "not-requested"),
            (request("sh", &["-c", "echo forbidden"]), "not-requested"),
            (request("env", &["sh"]), "not-requested"),
            (request("../bin/sh", &["-c", "x"]), "not-requested"),
            (request("sh", &["-c", "{tree:1}"]), "invalid"),
            (
                Request::CommandRun {
                    program: "env".into(),
                    args: vec![],
                    env: vec![("LD_PRELOAD".into(), "x".into())],
                    trees: vec![],
                },
                "not-requested",
            ),
            (
                Request::CommandRun {
                    program: "sh".into(),
                    args: vec!["-c".into(), "true".into()],
                    env: vec![],
                    trees: vec![at("../x")],
                },
                "invalid",
            ),
        ] {
            let error = host.call(&cx, request.clone()).await.unwrap_err();
            assert_eq!(error.code, code, "{request:?}: {error}");
        }
        let missing = context(&host, &pool, vec![command("no-such-program", &["**"], None)]);
        assert_eq!(
            host.call(&missing, request("no-such-program", &[]))
                .await
                .unwrap_err()
                .code,
            "unavailable"
        );
    });
}

/// What a program is given may be full of what a container made, and may change while it runs: nothing leads it elsewhere.
#[test]
fn a_program_is_led_nowhere_by_what_is_in_its_tree() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir_all(pool.join("tree/sub")).unwrap();
        std::fs::create_dir_all(dir.join("secret/sub")).unwrap();
        std::fs::write(dir.join("secret/key"), "of the host").unwrap();
        std::os::unix::fs::symlink(dir.join("secret"), pool.join("tree/link")).unwrap();
        std::os::unix::fs::symlink(dir.join("secret/key"), pool.join("tree/file")).unwrap();
        std::os::unix::fs::symlink(dir.join("secret"), pool.join("outside")).unwrap();
        let null = std::process::Command::new("mknod")
            .args([pool.join("tree/null").to_str().unwrap(), "c", "1", "3"])
            .status();
        assert!(null.unwrap().success());
        let cx = context(&host, &pool, vec![command("sh", &["-c", "*", "**"], None)]);
        let script = |script: &str| request("sh", &["-c", script, "sh", "{tree:0}"]);
        for bad in [
            "cat \"$1/file\"",
            "cat \"$1/link/key\"",
            "ls \"$1/link/\"",
            "echo x > \"$1/file\"",
            "echo x > \"$1/link/new\"",
            "cat < \"$1/null\"",
        ] {
            let output = run(&host, &cx, script(bad)).await;
            assert!(output.status != 0 && output.stdout.is_empty(), "{bad}: {output:?}");
        }
        // The way to it is another's by the time that the program looks.
        let turned = "echo > \"$1/started\"; while ! test -e \"$1/go\"; do sleep 0.01; done; cat \"$1/key\" 2>&1; echo x > \"$1/made\"";
        let (output, ()) = tokio::join!(run(&host, &cx, script(turned)), async {
            while !pool.join("tree/started").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::fs::rename(pool.join("tree"), pool.join("moved")).unwrap();
            std::fs::rename(pool.join("outside"), pool.join("tree")).unwrap();
            std::fs::write(dir.join("secret/go"), "").unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            std::fs::remove_file(pool.join("tree")).unwrap();
            std::fs::create_dir(pool.join("tree")).unwrap();
            std::fs::write(pool.join("tree/go"), "").unwrap();
        });
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("of the host"), "{text}");
        assert!(!dir.join("secret/made").exists() && !dir.join("secret/new").exists());
        assert_eq!(std::fs::read_to_string(dir.join("secret/key")).unwrap(), "of the host");
        assert!(pool.join("tree/made").exists(), "a program writes where its tree is");
        assert_eq!(std::fs::read_dir(dir.join("state/plugins/trees")).unwrap().count(), 0);
    });
}

#[test]
fn a_program_ends_when_its_time_is_over_or_nobody_wants_it() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir_all(pool.join("tree")).unwrap();
        let permission = |timeout| vec![command("sh", &["-c", "*"], timeout)];
        let stubborn = "trap '' TERM HUP INT; (trap '' TERM; sleep 1000) & sleep 1000 & wait; sleep 1000";
        let cx = context(&host, &pool, permission(Some(1)));
        let start = Instant::now();
        let error = host.call(&cx, request("sh", &["-c", stubborn])).await.unwrap_err();
        assert!(
            error.code == "timeout" && start.elapsed() < Duration::from_secs(5),
            "{error}"
        );

        let cx = context(&host, &pool, permission(None));
        let cancel = cx.call.cancel.clone();
        let (ended, ()) = tokio::join!(host.call(&cx, request("sh", &["-c", stubborn])), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cancel.cancel();
        });
        assert_eq!(ended.unwrap_err().code, "cancelled");

        // The caller's future is dropped.
        let cx = context(&host, &pool, permission(None));
        let given_up = tokio::time::timeout(
            Duration::from_millis(300),
            host.call(&cx, request("sh", &["-c", stubborn])),
        )
        .await;
        assert!(given_up.is_err());
        // It is removed in the background, or by the next daemon, whichever is first.
        drop(common::host(&dir).await);
        assert!(groups(&dir).is_empty(), "{:?}", groups(&dir));
    });
}

#[test]
fn what_a_killed_daemon_left_running_is_killed() {
    isolated(|dir| async move {
        drop(host(&dir).await);
        let name = format!(
            "command-{}-left",
            hutch_broker::state_id(&dir.join("state").canonicalize().unwrap())
        );
        let group = Hierarchies::find()
            .unified()
            .unwrap()
            .join(hutch_container::CGROUP_PARENT)
            .join(&name);
        std::fs::create_dir_all(&group).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        drop(host(&dir).await);
        assert!(!waiter.join().unwrap().success());
        assert!(groups(&dir).is_empty());
    });
}
