//! Buffers of the device that the plugin is built for, and the memory that it takes.

use finetune_candle::Candle;
use finetune_plugin_api::export::{Device, JsonObject, Options, Plugin};
use finetune_plugin_api::program::{DType, TensorType};

fn device() -> <Candle as Plugin>::Device {
    Candle::open(0, &Options::from(JsonObject::new())).unwrap()
}

/// The host packs many tensors into few buffers and reads each of them by its offset: a read gives those bytes, and costs
/// what they are. Reads that each went over all of this buffer would move a tebibyte.
#[test]
fn a_part_of_a_large_buffer_is_read_alone() {
    const EACH: usize = 4096;
    let mut device = device();
    for (dtype, total) in [(DType::F32, 64 << 20), (DType::Bf16, 64 << 20), (DType::U32, 4 << 20)] {
        let ty = TensorType::new(dtype, &[total / dtype.size(), 1]);
        let bytes: Vec<u8> = (0..total as u64).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        let mut buffer = device.allocate(&ty).unwrap();
        device.upload(&mut buffer, 0, &bytes).unwrap();
        for (number, wanted) in bytes.chunks(EACH).enumerate() {
            let mut read = [0xa5; EACH];
            device.download(&buffer, number * EACH, &mut read).unwrap();
            assert!(read == wanted, "part {number} of {ty}");
        }
        // Within elements, at both ends, and nothing.
        for (offset, length) in [(0, 1), (1, 1), (3, 6), (total - 5, 5), (total - 4, 4), (total, 0), (7, 0)] {
            let mut read = vec![0xa5; length];
            device.download(&buffer, offset, &mut read).unwrap();
            assert_eq!(read, bytes[offset..offset + length], "{length} bytes from {offset} on of {ty}");
        }
        for (offset, length) in [(total, 1), (total - 3, 4), (usize::MAX, 2)] {
            assert!(device.download(&buffer, offset, &mut vec![0; length]).is_err(), "{offset} {length}");
        }
    }
}
