//! The container image and the compose file, on a real engine where one runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// How compose is called here.
#[derive(Debug, Clone, Copy)]
enum Compose {
    Plugin,
    Standalone,
}

impl Compose {
    fn command(self) -> Command {
        match self {
            Compose::Plugin => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
            Compose::Standalone => Command::new("docker-compose"),
        }
    }

    /// Whether it has `up --wait`, as it has from version 2 on.
    fn knows_wait(self) -> bool {
        let help = self.command().args(["up", "--help"]).output().unwrap();
        String::from_utf8_lossy(&help.stdout).contains("--wait")
    }
}

/// A compose project, taken down when dropped.
struct Project {
    compose: Compose,
    name: String,
}

impl Project {
    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.compose.command();
        let mut child = command
            .args(["--project-name", &self.name])
            .args(args)
            .current_dir(root())
            .env("STATECAST_IMAGE", "statecast:test")
            .env("STATECAST_TARGET", "packed")
            // Free ports: nobody connects from outside here.
            .env("STATECAST_PORT", "0")
            .env("STATECAST_HTTP_PORT", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn succeed(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.run(args, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb in the broker's container, until the broker answers.
    fn statecast(&self, args: &[&str], input: &[u8]) -> String {
        let mut whole = vec!["exec", "-T", "broker", "/statecast"];
        whole.extend(args);
        self.succeed(&whole, input)
    }

    /// Starts it, and waits until it is healthy.
    fn up(&self) {
        if self.compose.knows_wait() {
            self.succeed(&["up", "--wait"], b"");
            assert_eq!(self.inspect("{{.State.Health.Status}}"), "healthy");
            return;
        }
        note("this docker-compose knows no `up --wait`: the test waits itself");
        self.succeed(&["up", "--detach"], b"");
        self.wait_until_healthy();
    }

    /// The id of the broker's container.
    fn container(&self) -> String {
        let id = self.succeed(&["ps", "-q", "broker"], b"");
        id.trim().to_owned()
    }

    /// What the engine knows of the broker's container.
    fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.container()])
    }

    /// Waits for the image's own health check to say so.
    fn wait_until_healthy(&self) {
        let id = self.container();
        let deadline = std::time::Duration::from_secs(60);
        let format = "{{.State.Health.Status}}";
        let check = format!(
            "until [ \"$(docker inspect -f '{format}' {id})\" = healthy ]; do sleep 0.2; done"
        );
        let waited = Command::new("timeout")
            .args([&deadline.as_secs().to_string(), "sh", "-c", &check])
            .status()
            .unwrap();
        assert!(waited.success(), "the container gets healthy");
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        self.run(&["down", "--volumes", "--timeout", "20"], b"");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says it past the capture of the test's output: who runs the tests should see it.
fn note(text: &str) {
    std::io::stderr()
        .write_all(format!("{text}\n").as_bytes())
        .unwrap();
}

/// Runs `docker`; what it printed.
fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Who owns a file in a container: the user's and the group's id. There is no shell
/// in it to ask, but the engine packs files as `tar` does.
fn owner(container: &str, path: &str) -> (u32, u32) {
    let from = format!("{container}:{path}");
    let packed = Command::new("docker").args(["cp", &from, "-"]).output();
    let packed = packed.unwrap().stdout;
    let number = |at: std::ops::Range<usize>| {
        let digits = std::str::from_utf8(&packed[at]).unwrap();
        let digits = digits.trim_matches(|c: char| !c.is_ascii_digit());
        u32::from_str_radix(digits, 8).unwrap()
    };
    (number(108..116), number(116..124))
}

/// Nobody but the broker, and no more of the machine than it needs.
fn assert_confined(project: &Project) {
    let container = project.container();
    let processes = docker(&["top", &container, "-o", "pid,uid,gid,args"]);
    let processes: Vec<Vec<&str>> = processes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    // A health check may run beside it.
    assert!(!processes.is_empty());
    for process in &processes {
        assert_eq!(process[1..=2], ["65532", "65532"], "{process:?}");
    }
    let ports = "{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}";
    let published = project.inspect(ports);
    let published: Vec<&str> = published.split_whitespace().collect();
    assert_eq!(published, ["127.0.0.1", "127.0.0.1"], "gRPC and HTTP");
    let mounts = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.Name}} {{end}}";
    let volume = format!("volume /data {}_data", project.name);
    assert_eq!(project.inspect(mounts), volume);
    for path in ["/data", "/data/FORMAT"] {
        assert_eq!(owner(&container, path), (65_532, 65_532), "{path}");
    }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

/// What runs here, or why nothing does.
fn engine() -> Result<Compose, &'static str> {
    let packed: PathBuf = root().join("deploy/packed/statecast");
    if !packed.exists() {
        return Err("deploy/pack.sh was not run");
    }
    if !succeeds("docker", &["info"]) {
        return Err("no container engine runs here");
    }
    if succeeds("docker", &["compose", "version"]) {
        return Ok(Compose::Plugin);
    }
    match succeeds("docker-compose", &["version"]) {
        true => Ok(Compose::Standalone),
        false => Err("there is no docker compose"),
    }
}

#[test]
fn records_survive_the_restart_of_a_composed_broker() {
    let compose = match engine() {
        Ok(compose) => compose,
        Err(reason) => {
            note(&format!("skipped: {reason}"));
            return;
        }
    };
    let name = format!("statecast-test-{}", std::process::id());
    let project = Project { compose, name };
    project.succeed(&["build"], b"");
    project.up();
    assert_confined(&project);
    project.statecast(&["topic", "create", "orders", "--partitions", "2"], b"");
    project.statecast(
        &["produce", "orders", "--key-delimiter", "="],
        b"a=1\nb=2\na=3\n",
    );
    project.succeed(&["restart", "--timeout", "20"], b"");
    project.wait_until_healthy();
    let consumed = project.statecast(
        &["consume", "orders", "--until-end", "--format", "%k=%v\\n"],
        b"",
    );
    let mut lines: Vec<&str> = consumed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a=1", "a=3", "b=2"]);
}
