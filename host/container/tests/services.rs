//! Helper programs that a keeper looks after.

mod common;

use common::{Lab, timeout};
use hutch_container::{FaultKind, SERVICE_VERSION, Service, ServiceSpec};

fn spec(lab: &Lab, id: &str, script: &str) -> ServiceSpec {
    ServiceSpec {
        version: SERVICE_VERSION,
        id: id.to_owned(),
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("WHO".to_owned(), id.to_owned())],
        dir: lab.dir.path().to_owned(),
        appears_at: None,
        user: None,
        log: Some(lab.dir.path().join("log")),
    }
}

/// Waits until a file of the service's directory has this many lines.
async fn lines(lab: &Lab, file: &str, count: usize) -> Vec<String> {
    let path = lab.dir.path().join(file);
    timeout(async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Whether a process runs. One that has ended may stay for its parent to see, which is the machine's PID 1 in the end.
fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

async fn pid(service: &Service) -> u32 {
    timeout(async {
        loop {
            if let Some(pid) = service.state().unwrap().pid {
                return pid;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test]
async fn ensured_found_again_replaced_and_stopped() {
    let lab = Lab::new();
    let first = spec(
        &lab,
        "web",
        "echo $WHO $PATH; cat /proc/self/cgroup >&2; exec sleep 1000",
    );
    let service = lab.runtime.service_ensure(&first).await.unwrap();
    let one = pid(&service).await;
    assert_eq!(
        lines(&lab, "log", 2).await[0],
        "web /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    drop(service);
    // Another daemon finds it as it is.
    let again = lab.runtime.service_ensure(&first).await.unwrap();
    assert_eq!(pid(&again).await, one);
    assert_eq!(lab.runtime.services().unwrap(), ["web"]);
    // Another specification replaces it.
    let second = spec(&lab, "web", "exec sleep 2000");
    let replaced = lab.runtime.service_ensure(&second).await.unwrap();
    let two = pid(&replaced).await;
    assert!(!alive(one) && alive(two));
    lab.runtime.service_stop("web").await.unwrap();
    assert!(!alive(two));
    assert!(lab.runtime.service("web").await.unwrap().is_none());
    assert_eq!(lab.runtime.services().unwrap(), Vec::<String>::new());
    lab.runtime.service_stop("web").await.unwrap();
}

#[tokio::test]
async fn started_again_when_it_ends_with_all_that_it_had_started() {
    let lab = Lab::new();
    // One process that outlives its parent is left behind by each.
    let script = "sleep 3000 & echo $! >> stray; echo $$ >> mains; sleep 0.05";
    let service = lab.runtime.service_ensure(&spec(&lab, "flaky", script)).await.unwrap();
    let mains = lines(&lab, "mains", 3).await;
    assert_ne!(mains[0], mains[1]);
    let strays = lines(&lab, "stray", 2).await;
    assert!(!alive(strays[0].parse().unwrap()));
    assert!(service.state().unwrap().restarts >= 1);
    service.stop().await.unwrap();
    for stray in lines(&lab, "stray", 1).await {
        assert!(!alive(stray.parse().unwrap()), "{stray}");
    }
}

#[tokio::test]
async fn a_program_that_ignores_the_request_is_killed_and_a_missing_one_is_said() {
    let lab = Lab::new();
    let service = lab
        .runtime
        .service_ensure(&spec(&lab, "deaf", "trap '' TERM; echo up; while :; do sleep 1; done"))
        .await
        .unwrap();
    lines(&lab, "log", 1).await;
    let main = pid(&service).await;
    service
        .signal(libc::SIGHUP)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    service.stop().await.unwrap();
    assert!(!alive(main));

    let mut missing = spec(&lab, "missing", "");
    missing.program = "/no/such/program".into();
    let error = lab.runtime.service_ensure(&missing).await.unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::NotFound, "{error}");
    assert_eq!(lab.runtime.services().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_left_when_its_keeper_is_killed() {
    let lab = Lab::new();
    let service = lab
        .runtime
        .service_ensure(&spec(&lab, "orphan", "sleep 4000 & echo $! > stray; sleep 5000"))
        .await
        .unwrap();
    let main = pid(&service).await;
    let stray: u32 = lines(&lab, "stray", 1).await[0].parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{main}/status")).unwrap();
    let keeper = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .to_owned();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(keeper.parse().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    timeout(async {
        while service.state().is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(lab.runtime.service("orphan").await.unwrap().is_none());
    assert!(!alive(main) && !alive(stray));
}
