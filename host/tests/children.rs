//! Plugins that misbehave when they are asked: each is a row with its reason, and nothing of it goes on.
//! They are made by the C compiler; a manifest is all that makes a library a plugin, and a constructor runs at load.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use finetune_host::plugins::{Catalog, Folders, Prober, Status};

const MANIFEST: &str = "#define _GNU_SOURCE\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
    #include <string.h>\n#include <signal.h>\n#include <fcntl.h>\n#include <sys/mman.h>\n\
    const char finetune_plugin_manifest[] = \"{\\\"name\\\":\\\"bad\\\",\\\"version\\\":\\\"1\\\",\\\"api\\\":\\\"1.0.0\\\",\
    \\\"vendor\\\":\\\"v\\\",\\\"license\\\":\\\"l\\\",\\\"description\\\":\\\"d\\\"}\";\n\
    __attribute__((constructor)) static void at_load(void) {\n";

/// A plugin that does this when it is loaded.
fn plugin(folder: &Path, stem: &str, code: &str) {
    let source = folder.join(format!("{stem}.c"));
    fs::write(&source, format!("{MANIFEST}{code}\n}}\n")).unwrap();
    let library = folder.join(format!("{stem}.so"));
    let output = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source).output();
    let output = output.expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn prober(cache: Option<&Path>, seconds: f64) -> Prober {
    let program = env!("CARGO_BIN_EXE_finetune").into();
    Prober::with(program, cache.map(Path::to_path_buf), Duration::from_secs_f64(seconds))
}

fn catalog(folder: &Path, prober: &Prober) -> Catalog {
    Catalog::build(&Folders::given(&[folder.into()]), prober).unwrap()
}

#[track_caller]
fn check(stem: &str, code: &str, seconds: f64, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    plugin(folder.path(), stem, code);
    let catalog = catalog(folder.path(), &prober(None, seconds));
    let row = &catalog.plugins[0];
    assert_eq!((row.status, row.name.as_deref()), (Status::Refused, Some("bad")), "{row:?}");
    let reason = row.reason.as_deref().unwrap();
    for part in parts {
        assert!(reason.contains(part), "{reason:?} does not say {part:?}");
    }
}

#[test]
fn a_crash_is_named_by_its_signal_with_the_last_words() {
    check("segv", "*(volatile int *)8 = 1;", 10.0, &["crashed while it was asked (SIGSEGV)"]);
    check("abort", "fputs(\"no such luck\\n\", stderr); abort();", 10.0, &["SIGABRT", "no such luck"]);
    check("kill", "raise(SIGKILL);", 10.0, &["SIGKILL"]);
}

#[test]
fn an_exit_is_no_answer_whatever_was_printed() {
    check("exit", "_exit(0);", 10.0, &["ended the process with exit code 0 instead of answering"]);
    let lie = "puts(\"{\\\"number\\\":\\\"0\\\",\\\"value\\\":{\\\"status\\\":\\\"ready\\\",\\\"devices\\\":[]}}\"); \
               fflush(stdout); _exit(0);";
    check("lie", lie, 10.0, &["exit code 0 instead of answering"]);
}

/// A plugin that finds the socket anyway does not know the number.
#[test]
fn garbage_instead_of_an_answer_is_said_to_be_some() {
    let code = "for (int fd = 3; fd < 64; fd++) if (write(fd, \"{}\\n\", 3) == 3) {} sleep(5);";
    check("garbage", code, 10.0, &["gave an answer that is none"]);
}

#[test]
fn what_hangs_is_ended_at_the_deadline() {
    check("loop", "for (volatile int i = 0;; i++) {}", 0.5, &["did not answer within 0.5 s"]);
    check("stop", "raise(SIGSTOP);", 0.5, &["did not answer within 0.5 s", "stopped itself"]);
    let flood =
        "signal(SIGTERM, SIG_IGN); for (;;) { puts(\"spam spam spam\"); fputs(\"eggs\\n\", stderr); }";
    check("flood", flood, 0.5, &["did not answer within 0.5 s"]);
    check("stdin", "char c; while (read(0, &c, 1) == 0) {}", 0.5, &["did not answer within"]);
}

/// Asking must not take the memory that the host and everyone else need.
#[test]
fn what_eats_memory_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    // Slow enough that the bound is what ends it.
    let code = "for (;;) { char *p = malloc(1 << 20); memset(p, 1, 1 << 20); usleep(2000); }";
    plugin(folder.path(), "eat", code);
    let catalog = catalog(folder.path(), &prober(None, 60.0).with_memory(256 << 20));
    let reason = catalog.plugins[0].reason.as_deref().unwrap();
    assert!(reason.contains("took more than 256 MiB of memory"), "{reason}");
}

/// Memory of what the child starts counts, too.
#[test]
fn what_eats_memory_in_another_process_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let code =
        "if (fork()) pause(); for (;;) { char *p = malloc(1 << 20); memset(p, 1, 1 << 20); usleep(2000); }";
    plugin(folder.path(), "eat", code);
    let catalog = catalog(folder.path(), &prober(None, 60.0).with_memory(256 << 20));
    let reason = catalog.plugins[0].reason.as_deref().unwrap();
    assert!(reason.contains("took more than 256 MiB of memory"), "{reason}");
}

/// Nobody waits for an answer that cannot come, and what is printed is drained, however much it is, and not kept.
#[test]
fn closing_everything_and_a_gigabyte_of_output_are_survived() {
    check(
        "closes",
        "for (int fd = 3; fd < 1024; fd++) close(fd); sleep(5);",
        60.0,
        &["closed the connection"],
    );
    let code = "static char block[1 << 16]; memset(block, 'x', sizeof block); \
                for (int i = 0; i < 1 << 14; i++) if (write(2, block, sizeof block) < 0) abort(); _exit(5);";
    check("talks", code, 60.0, &["exit code 5"]);
}

/// What comes after the answer, or before it from somebody else, is none.
#[test]
fn an_answer_of_somebody_else_is_none() {
    let code = "for (int fd = 3; fd < 64; fd++) \
                if (write(fd, \"{\\\"number\\\":\\\"0\\\",\\\"value\\\":{\\\"status\\\":\\\"unavailable\\\",\\\"reason\\\":\\\"\\\"}}\\n\", 60) < 0) {}";
    check("answers", code, 10.0, &["gave an answer that is none"]);
}

/// A child has no terminal: what a plugin has to say there, or would read there, is nobody's.
#[test]
fn a_terminal_is_out_of_reach() {
    let code = "if (open(\"/dev/tty\", O_RDWR) >= 0 || getsid(0) != getpid()) abort(); _exit(7);";
    check("tty", code, 10.0, &["exit code 7"]);
}

/// Also what has left the group and the session, and was started anew.
#[test]
fn nothing_is_left_running() {
    for (stem, rest) in [
        ("child", "pause();"),
        ("session", "setsid(); pause();"),
        ("daemon", "setsid(); if (fork()) _exit(0); pause();"),
        ("program", "setsid(); execl(\"/bin/sleep\", \"sleep\", \"1000\", (char *)0);"),
        // Nothing of what it was started with is left in it, and nobody who started it.
        (
            "stranger",
            "setsid(); if (fork()) _exit(0); setsid(); char *none[] = {0}; \
             NOTE execle(\"/bin/sleep\", \"sleep\", \"1000\", (char *)0, none);",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        // The program must be seen to have begun, or its end would prove nothing.
        let note = "int f = open(PIDS, O_WRONLY | O_CREAT | O_APPEND, 0600); dprintf(f, \"%d\\n\", getpid()); close(f);";
        let rest = rest
            .replace("pause();", &format!("{note} pause();"))
            .replace("execl(", &format!("{note} execl("))
            .replace("NOTE", note);
        let code = format!("if (!fork()) {{ {rest} }} usleep(300000); _exit(3);");
        let code = code.replace("PIDS", &format!("{:?}", pids.display().to_string()));
        plugin(folder.path(), stem, &code);
        let catalog = catalog(folder.path(), &prober(None, 10.0));
        let reason = catalog.plugins[0].reason.as_deref().unwrap();
        assert!(reason.contains("exit code 3"), "{stem}: {reason}");
        let noted = fs::read_to_string(&pids).expect("it began");
        for pid in noted.lines() {
            // Other tests may be asking in this process at the same time; the last of them clears up after all.
            let begun = Instant::now();
            while is_running(pid) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(!is_running(pid), "{stem}: {pid} is still there");
        }
    }
}

fn is_running(pid: &str) -> bool {
    // Ended processes wait for whoever inherited them to look.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// One that hangs does not make the others wait, and of one name the first that works is used.
#[test]
fn plugins_are_asked_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    for stem in ["a", "b", "c", "d"] {
        plugin(folder.path(), stem, "sleep(60);");
    }
    let begun = Instant::now();
    let catalog = catalog(folder.path(), &prober(None, 2.0));
    assert!(catalog.plugins.iter().all(|row| row.reason.as_deref().unwrap().contains("did not answer")));
    assert!(begun.elapsed() < Duration::from_secs(7), "one after the other");
}

/// A slow driver needs only be waited for once.
#[test]
fn what_was_too_slow_is_asked_again_with_more_time() {
    let folder = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    plugin(folder.path(), "slow", "usleep(900000); _exit(3);");
    let reason = |seconds| {
        let catalog = catalog(folder.path(), &prober(Some(cache.path()), seconds));
        (catalog.plugins[0].reason.clone().unwrap(), catalog.plugins[0].remembered.is_some())
    };
    assert!(reason(0.2).0.contains("did not answer within 0.2 s"));
    assert!(reason(0.1).1, "less time would not help");
    assert!(reason(10.0).0.contains("exit code 3"));
}

/// The code of the file runs once; what it did then is told later.
#[test]
fn a_refusal_is_remembered_until_it_is_asked_again_or_changes() {
    let folder = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let code = |status: u8| {
        let note =
            format!("int f = open({:?}, O_WRONLY | O_CREAT | O_APPEND, 0600);", runs.display().to_string());
        format!("{note} if (write(f, \"x\", 1) != 1) abort(); _exit({status});")
    };
    plugin(folder.path(), "once", &code(3));
    let prober = prober(Some(cache.path()), 10.0);
    let times = || fs::read(&runs).unwrap().len();
    let first = catalog(folder.path(), &prober);
    let second = catalog(folder.path(), &prober);
    assert_eq!(times(), 1);
    assert_eq!(first.plugins[0].reason, second.plugins[0].reason);
    assert_eq!((first.plugins[0].remembered, second.plugins[0].remembered.is_some()), (None, true));
    assert_eq!((prober.forget("other"), prober.forget("bad")), (0, 1));
    catalog(folder.path(), &prober);
    assert_eq!(times(), 2);
    plugin(folder.path(), "once", &code(4));
    let changed = catalog(folder.path(), &prober);
    assert_eq!(times(), 3);
    assert!(changed.plugins[0].reason.as_deref().unwrap().contains("exit code 4"));
}
