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

/// A compose project, taken down when dropped.
struct Project {
    compose: Compose,
    name: String,
}

impl Project {
    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let (program, first): (&str, &[&str]) = match self.compose {
            Compose::Plugin => ("docker", &["compose"]),
            Compose::Standalone => ("docker-compose", &[]),
        };
        let mut child = Command::new(program)
            .args(first)
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

    /// Waits for the image's own health check to say so.
    fn wait_until_healthy(&self) {
        let id = self.succeed(&["ps", "-q", "broker"], b"");
        let deadline = std::time::Duration::from_secs(60);
        let format = "{{.State.Health.Status}}";
        let check = format!(
            "until [ \"$(docker inspect -f '{format}' {})\" = healthy ]; do sleep 0.2; done",
            id.trim()
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
            // Past the capture of the test's output: who runs the tests should see it.
            let skipped = format!("skipped: {reason}\n");
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            return;
        }
    };
    let name = format!("statecast-test-{}", std::process::id());
    let project = Project { compose, name };
    project.succeed(&["build"], b"");
    project.succeed(&["up", "--detach"], b"");
    project.wait_until_healthy();
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
