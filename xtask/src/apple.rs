use anyhow::Result;
pub fn check(_: &crate::workspace::Workspace) -> Result<()> {
    Ok(())
}
