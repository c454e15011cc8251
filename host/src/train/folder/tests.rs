use super::super::checkpoint;
use super::*;

fn create(out: &Path, result: &str) -> Result<RunFolder, TrainError> {
    RunFolder::create(out, &Settings::default(), &out.join(result))
}

fn said<T>(refused: Result<T, TrainError>) -> String {
    refused.err().expect("an error").to_string()
}

/// What a run makes takes no one's place: it may be the model that it is to train.
#[test]
fn what_is_at_the_place_of_the_result_is_not_replaced() {
    let out = tempfile::tempdir().unwrap();
    let model = out.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("notes.txt"), "mine").unwrap();
    let message = said(create(out.path(), "model"));
    assert!(message.contains("model: is there already") && message.contains("another --out"), "{message}");
    assert_eq!(fs::read_to_string(model.join("notes.txt")).unwrap(), "mine");
    assert!(!RunFolder::can_resume(out.path()), "no run was begun");
    create(out.path(), "adapter").unwrap();
}

/// Checkpoints without settings can neither go on nor be written over, and the message does not send in circles.
#[test]
fn checkpoints_without_settings_are_said_as_such() {
    let out = tempfile::tempdir().unwrap();
    fs::create_dir_all(out.path().join("checkpoints/step-00000005")).unwrap();
    let message = said(create(out.path(), "adapter"));
    assert!(message.contains("are gone") && !message.contains("--resume"), "{message}");
}

/// Nothing is written into a folder that has come into the place of the run's.
#[test]
#[cfg(unix)]
fn a_folder_that_was_moved_is_noticed() {
    let above = tempfile::tempdir().unwrap();
    let out = above.path().join("run");
    let folder = create(&out, "adapter").unwrap();
    folder.check_place().unwrap();
    fs::rename(&out, above.path().join("elsewhere")).unwrap();
    assert!(said(folder.check_place()).contains("was moved or removed"));
    let _other = create(&out, "adapter").unwrap();
    assert!(said(folder.check_place()).contains("was moved or removed"));
}

/// A checkpoint that cannot be read for now must not be taken for a damaged one, whose place another takes.
#[test]
#[cfg(unix)]
fn what_cannot_be_opened_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::check_readable(folder.path()).unwrap();
    checkpoint::check_readable(&folder.path().join("absent")).unwrap();
    let file = folder.path().join("state.json");
    std::os::unix::fs::symlink(&file, &file).unwrap();
    assert!(said(checkpoint::check_readable(folder.path())).contains("cannot be read"));
}
