//! Processes that plugins' children start and leave: they come to the host, where the system has such a thing (Linux),
//! so that they are found whatever they did to their group, their session and their environment.

/// Makes this process the one that orphans come to, until all who asked for it are done; those that are there then are
/// ended.
pub(super) fn adopt() -> Adopted {
    #[cfg(target_os = "linux")]
    linux::begin();
    Adopted(())
}

/// What [`adopt`] gives.
pub(super) struct Adopted(());

impl Drop for Adopted {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        linux::end();
    }
}

/// The processes of a child's session, and those that they have started, without the child.
pub(super) fn started_by(child: u32) -> Vec<u32> {
    #[cfg(target_os = "linux")]
    return linux::started_by(child);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = child;
        Vec::new()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

    struct State {
        asking: usize,
        /// Children of this process that have nothing to do with plugins.
        before: BTreeSet<u32>,
    }

    static STATE: Mutex<State> = Mutex::new(State { asking: 0, before: BTreeSet::new() });

    fn state() -> MutexGuard<'static, State> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin() {
        let mut state = state();
        if state.asking == 0 {
            state.before = foreign_children().into_iter().collect();
            if let Err(error) = set_child_subreaper(Some(rustix::process::getpid())) {
                tracing::debug!("orphans of plugins' children go elsewhere: {error}");
            }
        }
        state.asking += 1;
    }

    pub(super) fn end() {
        let mut state = state();
        state.asking -= 1;
        if state.asking > 0 {
            return;
        }
        // Each may have started others before it died.
        for _ in 0..100 {
            let orphans: Vec<u32> =
                foreign_children().into_iter().filter(|child| !state.before.contains(child)).collect();
            if orphans.is_empty() {
                break;
            }
            for orphan in orphans {
                tracing::debug!("process {orphan}, which a plugin left, is ended");
                let Some(pid) = Pid::from_raw(orphan as i32) else { continue };
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
        let _ = set_child_subreaper(None);
    }

    /// Children of this process in another session: what it starts for itself stays in its own, and a plugin's child
    /// has one of its own, from which there is no way back.
    fn foreign_children() -> Vec<u32> {
        let me = std::process::id();
        let processes = processes();
        let own = processes.iter().find(|process| process.number == me).map(|process| process.session);
        let children =
            processes.into_iter().filter(|process| process.parent == me && Some(process.session) != own);
        children.map(|process| process.number).collect()
    }

    pub(super) fn started_by(child: u32) -> Vec<u32> {
        let processes = processes();
        let mut found: Vec<u32> = processes
            .iter()
            .filter(|process| process.session == child)
            .map(|process| process.number)
            .collect();
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            let new =
                processes.iter().filter(|process| process.parent == parent).map(|process| process.number);
            let new: Vec<u32> = new.filter(|number| !found.contains(number)).collect();
            found.extend(new);
            next += 1;
        }
        found.retain(|number| *number != child);
        found
    }

    struct Process {
        number: u32,
        parent: u32,
        session: u32,
    }

    fn processes() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter_map(process).collect()
    }

    /// See proc(5). The name before the last bracket may hold anything.
    fn process(number: u32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let mut words = stat.rsplit_once(") ")?.1.split(' ').skip(1);
        let parent = words.next()?.parse().ok()?;
        Some(Process { number, parent, session: words.nth(1)?.parse().ok()? })
    }
}
