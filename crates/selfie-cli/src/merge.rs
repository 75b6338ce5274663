//! `selfie merge`: completed sweeps as one file.

use selfie_explorer::Commands;
use selfie_sweep::Merge;

use crate::args::MergeArgs;
use crate::console::print_note;
use crate::error::Result;
use crate::output::RowTarget;

pub(crate) fn merge(args: &MergeArgs) -> Result<()> {
    let merge = Merge::open(&args.dirs)?;
    let target = RowTarget::new(args.out.out.as_deref(), args.out.format)?;
    let target = target.with_metadata(vec![("selfie.settings", merge.settings.0.to_string())]);
    if !merge.failed.is_empty() {
        let (failed, first) = (merge.failed.len(), &merge.failed[0].cell);
        let rows = merge.rows + failed;
        print_note(
            args.quiet,
            format!(
                "{failed} of {rows} rows are missing because activations overflowed (the first: {first})"
            ),
        );
    }
    if merge.devices.len() > 1 {
        let devices = merge.devices.join("; ");
        print_note(
            args.quiet,
            format!(
                "the rows come from different devices and may differ in the last bits: {devices}"
            ),
        );
    }
    let mut writer = target.open(&merge.fields, Commands::FromRows)?;
    for row in merge.rows() {
        writer.write(&row?)?;
    }
    writer.finish()
}
