//! The exporter, through the device object that a host would get.
//!
//! The device under test adds its input to its state, element by element; what it is fed decides how it fails.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use abi_stable::std_types::{RResult, RSlice, RSliceMut};
use finetune_plugin_api::abi::{AbiError, DeviceBox, ErrorKind, PluginModule_Ref};
use finetune_plugin_api::export::{
    AnyThread, Bound, Device, DeviceDescription, Error, Lease, MemoryInfo, Meter, Options, OwnThread, Plugin,
    Threading, module,
};
use finetune_plugin_api::program::{Program, TensorType};

const PROGRAM: &str = "finetune.program 1\n\
    %0 = input \"x\" : f32[2]\n\
    %1 = param \"w\" : f32[2]\n\
    %2 = state \"sum\" : f32[2]\n\
    %3 = add(%0, %1) : f32[2]\n\
    %4 = add(%3, %2) : f32[2]\n\
    update %2 = %4\n\
    output \"seen\" = %3\n\
    end\n";

// What the first element of the input makes a run do.
const FAIL: f32 = -1.0;
const FAIL_UNTOUCHED: f32 = -2.0;
const PANIC: f32 = -3.0;
const FAIL_LATER: f32 = -4.0;

/// `M` makes the device `Send` or not.
struct Fake<M>(PhantomData<M>);

struct Adder<M> {
    meter: Meter,
    late: Option<Error>,
    owner: ThreadId,
    tag: u64,
    _marker: PhantomData<M>,
}

struct Values {
    bytes: Vec<u8>,
    _lease: Lease,
}

/// The tags of closed devices, and whether each was closed on the thread that opened it.
static CLOSED: Mutex<Vec<(u64, bool)>> = Mutex::new(Vec::new());

impl<M: 'static> Plugin for Fake<M> {
    type Device = Adder<M>;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        panic!("no driver\nat all");
    }

    fn open(index: u32, options: &Options) -> Result<Adder<M>, Error> {
        if index > 0 {
            return Err(Error::unavailable("there is one device"));
        }
        if options.get::<bool>("panic")? == Some(true) {
            panic!("as told");
        }
        let owner = std::thread::current().id();
        let tag = options.get("tag")?.unwrap_or(0);
        Ok(Adder { meter: Meter::default(), late: None, owner, tag, _marker: PhantomData })
    }
}

impl<M> Drop for Adder<M> {
    fn drop(&mut self) {
        CLOSED.lock().unwrap().push((self.tag, self.owner == std::thread::current().id()));
    }
}

impl<M: 'static> Device for Adder<M> {
    type Buffer = Values;
    type Compiled = Program;

    fn ops(&self) -> Vec<&'static str> {
        vec!["softmax", "attention", "attention.lse"]
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Values, Error> {
        if ty.elements() > 1 << 20 {
            return Err(Error::out_of_memory("that is too much"));
        }
        Ok(Values { bytes: vec![0; ty.bytes()], _lease: self.meter.lease(ty.bytes()) })
    }

    fn upload(&mut self, buffer: &mut Values, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        buffer.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, buffer: &Values, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(&buffer.bytes[offset..offset + into.len()]);
        Ok(())
    }

    fn compile(&mut self, program: Program) -> Result<Program, Error> {
        Ok(program)
    }

    fn run(
        &mut self,
        _program: &mut Program,
        arguments: &mut [Bound<'_, Values>],
        outputs: &mut [&mut Values],
    ) -> Result<(), Error> {
        let [x, w, sum] = arguments else { panic!("{} arguments", arguments.len()) };
        let (x, w) = (floats(&x.get().bytes), floats(&w.get().bytes));
        let sum = sum.get_mut().expect("state is bound to be written");
        match x[0] {
            FAIL => {
                sum.bytes.fill(0xff);
                return Err(Error::out_of_memory("half way"));
            }
            FAIL_UNTOUCHED => return Err(Error::out_of_memory("before anything").untouched()),
            PANIC => panic!("value {}", 7),
            FAIL_LATER => self.late = Some(Error::device_lost("gone meanwhile")),
            _ => {}
        }
        let seen: Vec<f32> = x.iter().zip(&w).map(|(x, w)| x + w).collect();
        let total: Vec<f32> = seen.iter().zip(floats(&sum.bytes)).map(|(seen, sum)| seen + sum).collect();
        sum.bytes = bytes(&total);
        outputs[0].bytes = bytes(&seen);
        Ok(())
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        assert_eq!(self.owner, std::thread::current().id(), "called from another thread");
        Ok(self.meter.info())
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        self.meter.reset_peak();
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.late.take().map_or(Ok(()), Err)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The device with a compiled program and a buffer for each of its arguments and its output.
struct Bench {
    device: DeviceBox,
    program: u64,
    x: u64,
    w: u64,
    sum: u64,
    seen: u64,
}

type Sendable = ();
type Pinned = Rc<()>;

fn open<P: Plugin, T: Threading<P>>(options: &str) -> Result<DeviceBox, AbiError> {
    module::<P, T>().open()(0, options.into()).into_result()
}

impl Bench {
    fn new(mut device: DeviceBox) -> Bench {
        let mut buffer = || device.allocate("f32".into(), RSlice::from_slice(&[2])).unwrap();
        let (x, w, sum, seen) = (buffer(), buffer(), buffer(), buffer());
        let program = device.compile(PROGRAM.into(), "{}".into()).unwrap().id;
        let mut bench = Bench { device, program, x, w, sum, seen };
        bench.upload(w, &[10.0, 20.0]).unwrap();
        bench.upload(sum, &[0.5, 0.5]).unwrap();
        bench
    }

    fn direct() -> Bench {
        Bench::new(open::<Fake<Sendable>, AnyThread>("").unwrap())
    }

    fn upload(&mut self, buffer: u64, values: &[f32]) -> Result<(), AbiError> {
        self.device.upload(buffer, 0, bytes(values).as_slice().into()).into_result()
    }

    fn download(&mut self, buffer: u64) -> Result<Vec<f32>, AbiError> {
        let mut into = [0; 8];
        self.device.download(buffer, 0, RSliceMut::from_mut_slice(&mut into)).into_result()?;
        Ok(floats(&into))
    }

    fn bind(&mut self, arguments: &[u64], outputs: &[u64]) -> Result<(), AbiError> {
        let (arguments, outputs) = (RSlice::from_slice(arguments), RSlice::from_slice(outputs));
        self.device.run(self.program, arguments, outputs).into_result()
    }

    fn run(&mut self, first: f32) -> Result<(), AbiError> {
        self.upload(self.x, &[first, 1.0])?;
        self.bind(&[self.x, self.w, self.sum], &[self.seen])
    }
}

fn expect<T: std::fmt::Debug>(result: Result<T, AbiError>, kind: ErrorKind, part: &str) -> AbiError {
    let error = result.unwrap_err();
    assert_eq!(ErrorKind::from_code(error.kind), kind, "{error:?}");
    assert!(error.message.contains(part), "{error:?}");
    error
}

#[test]
fn a_run_reads_and_writes_what_is_bound() {
    for device in [open::<Fake<Sendable>, AnyThread>(""), open::<Fake<Pinned>, OwnThread>("{}")] {
        let mut bench = Bench::new(device.unwrap());
        bench.run(1.0).unwrap();
        bench.run(2.0).unwrap();
        assert_eq!(bench.download(bench.seen).unwrap(), [12.0, 21.0]);
        assert_eq!(bench.download(bench.sum).unwrap(), [23.5, 42.5]);
        assert_eq!(bench.device.memory().unwrap().used, 4 * 8);
        bench.device.free(bench.x).unwrap();
        assert_eq!(bench.device.memory().unwrap().used, 3 * 8);
        let ops = bench.device.ops().unwrap();
        assert_eq!(ops.len(), 3);
    }
}

/// A handle that outlives its buffer must not reach the buffer that took its place.
#[test]
fn stale_handles_are_errors() {
    let mut bench = Bench::direct();
    let (x, w, sum, seen, program) = (bench.x, bench.w, bench.sum, bench.seen, bench.program);
    bench.device.free(x).unwrap();
    let fresh = bench.device.allocate("f32".into(), RSlice::from_slice(&[2])).unwrap();
    assert_ne!(fresh, x);
    expect(bench.upload(x, &[1.0]), ErrorKind::InvalidArgument, "no buffer");
    expect(bench.download(x), ErrorKind::InvalidArgument, "no buffer");
    expect(bench.device.free(x).into_result(), ErrorKind::InvalidArgument, "no buffer");
    expect(bench.bind(&[x, w, sum], &[seen]), ErrorKind::InvalidArgument, "input \"x\"");
    bench.device.release(program).unwrap();
    expect(bench.bind(&[fresh, w, sum], &[seen]), ErrorKind::InvalidArgument, "no compiled program");
}

/// Safe plugins get references that do not alias; two that do would be undefined behaviour.
#[test]
fn what_is_bound_must_fit_the_program() {
    let mut bench = Bench::direct();
    let (x, w, sum, seen) = (bench.x, bench.w, bench.sum, bench.seen);
    let wide = bench.device.allocate("f32".into(), RSlice::from_slice(&[3])).unwrap();
    let ints = bench.device.allocate("u32".into(), RSlice::from_slice(&[2])).unwrap();
    for (arguments, outputs, part) in [
        (vec![x, w], vec![seen], "has 3 arguments; 2"),
        (vec![x, w, sum], vec![], "has 1 outputs; 0"),
        (vec![wide, w, sum], vec![seen], "f32[2]; its buffer"),
        (vec![x, ints, sum], vec![seen], "is u32[2]"),
        (vec![sum, w, sum], vec![seen], "bound to both input \"x\" and state \"sum\""),
        (vec![x, w, sum], vec![sum], "bound to both state \"sum\" and output \"seen\""),
        (vec![x, w, sum], vec![w], "bound to both param \"w\" and output \"seen\""),
    ] {
        let error = expect(bench.bind(&arguments, &outputs), ErrorKind::InvalidArgument, part);
        assert!(error.state_untouched);
    }
    bench.bind(&[x, x, sum], &[seen]).unwrap();
    assert_eq!(bench.download(sum).unwrap(), [0.5, 0.5]);
}

#[test]
fn ranges_and_types_are_checked() {
    let mut bench = Bench::direct();
    let w = bench.w;
    for (offset, length) in [(5, 4), (9, 0), (u64::MAX, 8), (0, 9)] {
        let data = vec![0; length];
        let result = bench.device.upload(w, offset, data.as_slice().into()).into_result();
        expect(result, ErrorKind::InvalidArgument, "not all inside the buffer");
    }
    bench.device.upload(w, 4, bytes(&[5.0]).as_slice().into()).unwrap();
    assert_eq!(bench.download(w).unwrap(), [10.0, 5.0]);
    let mut allocate = |dtype: &str, shape: &[u64]| {
        bench.device.allocate(dtype.into(), RSlice::from_slice(shape)).into_result()
    };
    expect(allocate("f8", &[1]), ErrorKind::Unsupported, "f8");
    expect(allocate("f32", &[0]), ErrorKind::InvalidArgument, "empty dimension");
    expect(allocate("f32", &[u64::MAX, 4]), ErrorKind::InvalidArgument, "");
    expect(allocate("f32", &[1 << 21]), ErrorKind::OutOfMemory, "too much");
    let broken = bench.device.compile("finetune.program 1\n%0 = nonsense()\nend\n".into(), "".into());
    expect(broken.into_result(), ErrorKind::InvalidProgram, "line 2");
}

/// State that a failed run may have half written must not be trained on.
#[test]
fn a_failed_run_poisons_what_it_was_to_write_until_it_is_restored() {
    for (value, kind) in [(FAIL, ErrorKind::OutOfMemory), (PANIC, ErrorKind::Internal)] {
        let mut bench = Bench::direct();
        let error = expect(bench.run(value), kind, "");
        assert!(!error.state_untouched);
        expect(bench.run(1.0), ErrorKind::InvalidArgument, "state \"sum\"");
        expect(bench.download(bench.sum), ErrorKind::InvalidArgument, "poisoned");
        expect(bench.download(bench.seen), ErrorKind::InvalidArgument, "poisoned");
        assert_eq!(bench.download(bench.w).unwrap(), [10.0, 20.0]);
        bench.upload(bench.sum, &[1.0]).unwrap();
        expect(bench.run(1.0), ErrorKind::InvalidArgument, "poisoned");
        bench.upload(bench.sum, &[1.0, 1.0]).unwrap();
        bench.run(1.0).unwrap();
        assert_eq!(bench.download(bench.sum).unwrap(), [12.0, 22.0]);
        assert_eq!(bench.download(bench.seen).unwrap(), [11.0, 21.0]);
    }
}

#[test]
fn a_run_that_failed_before_it_touched_anything_poisons_nothing() {
    let mut bench = Bench::direct();
    assert!(expect(bench.run(FAIL_UNTOUCHED), ErrorKind::OutOfMemory, "before").state_untouched);
    assert_eq!(bench.download(bench.sum).unwrap(), [0.5, 0.5]);
    bench.run(1.0).unwrap();
}

/// An asynchronous run's failure shows late; by then its results may have been taken for good.
#[test]
fn a_late_failure_poisons_what_was_written_since_the_last_synchronize() {
    let mut bench = Bench::direct();
    bench.run(1.0).unwrap();
    bench.device.synchronize().unwrap();
    let other = bench.device.allocate("f32".into(), RSlice::from_slice(&[2])).unwrap();
    bench.upload(bench.x, &[FAIL_LATER, 1.0]).unwrap();
    bench.bind(&[bench.x, bench.w, bench.sum], &[other]).unwrap();
    expect(bench.device.synchronize().into_result(), ErrorKind::DeviceLost, "meanwhile");
    expect(bench.download(bench.sum), ErrorKind::InvalidArgument, "poisoned");
    expect(bench.download(other), ErrorKind::InvalidArgument, "poisoned");
    bench.download(bench.seen).unwrap();
}

#[test]
fn panics_become_errors_with_their_message() {
    let module: PluginModule_Ref = module::<Fake<Sendable>, AnyThread>();
    expect(module.probe()("{}".into()).into_result().map(|_| ()), ErrorKind::Internal, "no driver\nat all");
    for result in [
        open::<Fake<Sendable>, AnyThread>("{\"panic\": true}"),
        open::<Fake<Pinned>, OwnThread>("{\"panic\": true}"),
    ] {
        expect(result.map(|_| ()), ErrorKind::Internal, "as told");
    }
    expect(
        open::<Fake<Sendable>, AnyThread>("[1]").map(|_| ()),
        ErrorKind::InvalidArgument,
        "no JSON object",
    );
    let mut bench = Bench::new(open::<Fake<Pinned>, OwnThread>("").unwrap());
    expect(bench.run(PANIC), ErrorKind::Internal, "value 7");
    assert_eq!(bench.download(bench.w).unwrap(), [10.0, 20.0]);
}

/// A pinned device is dropped on its own thread, before the object is gone, with all that it owns.
#[test]
fn a_device_moves_between_threads_and_is_closed_with_its_object() {
    let bench = Bench::new(open::<Fake<Pinned>, OwnThread>("{\"tag\": 77}").unwrap());
    let bench = Arc::new(Mutex::new(bench));
    let other = Arc::clone(&bench);
    std::thread::spawn(move || {
        let mut bench = other.lock().unwrap();
        bench.run(1.0).unwrap();
        let memory = bench.device.memory();
        assert!(matches!(memory, RResult::ROk(_)), "{memory:?}");
    })
    .join()
    .unwrap();
    drop(bench);
    assert!(CLOSED.lock().unwrap().contains(&(77, true)));
}
