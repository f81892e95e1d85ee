// The CUDA runtime as torch asks for it. Operations are queued per stream, and one thread works them off, late.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;

struct Stream;

struct Record {  // of an event in a stream
  std::shared_ptr<Stream> stream;
  uint64_t number = 0;
  bool done = false;
  Clock::time_point when;
};

struct Operation {
  uint64_t number;
  std::function<void()> run;
  std::shared_ptr<Record> waits_for;
  bool records = false;  // an event, which a device that has failed passes by as well
};

struct Stream {
  std::deque<Operation> queue;
  uint64_t added = 0, done = 0;
};

struct Event {
  std::shared_ptr<Record> record;
};

enum Kind { PAGEABLE, DEVICE, PINNED, LOCKED };

struct Range {
  size_t size;
  Kind kind;
};

std::mutex mutex;
std::condition_variable wanted, advanced;
std::map<cudaStream_t, std::shared_ptr<Stream>> streams;
std::vector<std::pair<std::shared_ptr<Stream>, uint64_t>> waited_for;
std::map<const char*, Range> ranges;
size_t used = 0, calls = 0;
pid_t owner = 0;  // of the thread that works: a forked child has none of its parent's
bool finishing = false, finished = false;
cudaError_t failed = cudaSuccess;  // for good, as after an illegal access
thread_local cudaError_t last = cudaSuccess;

long setting(const char* name, long otherwise) {
  const char* value = getenv(name);
  return value ? atol(value) : otherwise;
}

size_t memory() { return size_t(setting("FAKE_CUDA_MIB", 8192)) << 20; }

cudaError_t error(cudaError_t code) { return last = code; }

std::shared_ptr<Stream> stream_of(cudaStream_t handle) {
  auto& stream = streams[size_t(handle) <= 2 ? nullptr : handle];  // 1 and 2 are names of the default stream
  if (!stream) stream = std::make_shared<Stream>();
  return stream;
}

Kind kind_of(const void* address) {
  auto next = ranges.upper_bound(static_cast<const char*>(address));
  if (next == ranges.begin()) return PAGEABLE;
  auto [start, range] = *std::prev(next);
  return address < start + range.size ? range.kind : PAGEABLE;
}

void run_up_to(Lock& lock, std::shared_ptr<Stream> stream, uint64_t number) {
  while (!stream->queue.empty() && stream->queue.front().number <= number) {
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (auto record = operation.waits_for) {
      if (!record->done) run_up_to(lock, record->stream, record->number);
    } else if (failed == cudaSuccess || operation.records) {
      lock.unlock();  // it may need Python, which others hold while they ask the device
      operation.run();
      lock.lock();
    }
    stream->done = operation.number;
  }
  advanced.notify_all();
}

void run_any(Lock& lock, std::mt19937& random) {
  std::vector<std::shared_ptr<Stream>> busy;
  for (auto& [_, stream] : streams)
    if (!stream->queue.empty()) busy.push_back(stream);
  if (busy.empty()) return;
  auto stream = busy[random() % busy.size()];
  run_up_to(lock, stream, stream->queue.front().number);
}

void work() {
  std::mt19937 random(setting("FAKE_CUDA_SEED", 0));
  auto delay = std::chrono::microseconds(setting("FAKE_CUDA_DELAY_US", 20000));
  Lock lock(mutex);
  while (true) {
    if (!wanted.wait_for(lock, delay, [] { return finishing || !waited_for.empty(); })) {
      run_any(lock, random);
      continue;
    }
    if (waited_for.empty()) break;
    auto [stream, number] = waited_for.back();
    waited_for.pop_back();
    run_up_to(lock, stream, number);
  }
  finished = true;
  advanced.notify_all();
}

void ensure_worker() {
  if (owner == getpid()) return;
  owner = getpid();
  std::thread(work).detach();
}

void fail_if_due() {
  static const long at = setting("FAKE_CUDA_FAIL_AT", -1);
  if (long(++calls) != at) return;
  const char* once = getenv("FAKE_CUDA_FAIL_ONCE");
  FILE* mark = once ? fopen(once, "wx") : nullptr;
  if (once && !mark) return;
  if (mark) fclose(mark);
  failed = cudaErrorIllegalAddress;
}

Operation& add(cudaStream_t handle, std::function<void()> run, std::shared_ptr<Record> waits_for = nullptr) {
  ensure_worker();
  auto stream = stream_of(handle);
  stream->queue.push_back({++stream->added, std::move(run), waits_for});
  return stream->queue.back();
}

void wait(Lock& lock, std::shared_ptr<Stream> stream, uint64_t number) {
  ensure_worker();
  waited_for.push_back({stream, number});
  wanted.notify_all();
  advanced.wait(lock, [&] { return stream->done >= number; });
}

void wait_for_stream(Lock& lock, cudaStream_t handle) {
  auto stream = stream_of(handle);
  wait(lock, stream, stream->added);
}

void* pages(size_t size) {
  void* found = nullptr;
  return posix_memalign(&found, 4096, size ? size : 1) ? nullptr : found;
}

cudaError_t forget(void* address, Kind kind) {
  auto found = ranges.find(static_cast<char*>(address));
  if (found == ranges.end() || found->second.kind != kind) return error(cudaErrorInvalidValue);
  if (kind == DEVICE) used -= found->second.size;
  ranges.erase(found);
  return cudaSuccess;
}

bool is_idle() {
  for (auto& [_, stream] : streams)
    if (!stream->queue.empty()) return false;
  return true;
}

}  // namespace

#define ASKED        \
  Lock lock(mutex);  \
  fail_if_due();     \
  if (failed != cudaSuccess) return error(failed)

extern "C" {

// What kernels.py asks.
void fake_enqueue(void* stream, void (*run)(long), long number) {
  Lock lock(mutex);
  fail_if_due();
  add(static_cast<cudaStream_t>(stream), [=] { run(number); });
}
void fake_synchronize(void* stream) {
  Lock lock(mutex);
  wait_for_stream(lock, static_cast<cudaStream_t>(stream));
}

void fake_finish() {  // nothing runs any more: Python is about to end
  Lock lock(mutex);
  if (owner != getpid()) return;
  auto all = streams;
  for (auto& [handle, _] : all) wait_for_stream(lock, handle);
  finishing = true;
  wanted.notify_all();
  advanced.wait(lock, [] { return finished; });
}

// Devices.
cudaError_t cudaGetDeviceCount(int* count) {
  *count = int(setting("FAKE_CUDA_DEVICES", 1));
  return *count ? cudaSuccess : error(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "Fake GPU");
  found->major = int(setting("FAKE_CUDA_CAPABILITY", 90)) / 10;
  found->minor = int(setting("FAKE_CUDA_CAPABILITY", 90)) % 10;
  found->totalGlobalMem = memory();
  found->multiProcessorCount = 132;
  found->warpSize = 32;
  found->maxThreadsPerBlock = 1024;
  found->maxThreadsPerMultiProcessor = 2048;
  found->sharedMemPerBlock = 49152;
  found->sharedMemPerBlockOptin = 232448;
  found->sharedMemPerMultiprocessor = 233472;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->textureAlignment = 512;
  found->unifiedAddressing = found->concurrentKernels = found->canMapHostMemory = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp known;
  cudaGetDeviceProperties(&known, device);
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? known.major
           : attribute == cudaDevAttrComputeCapabilityMinor ? known.minor
           : attribute == cudaDevAttrMultiProcessorCount    ? known.multiProcessorCount
                                                            : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* most) { *least = 0; *most = -5; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorMemoryAllocation ? "out of memory"
         : code == cudaErrorIllegalAddress ? "an illegal memory access was encountered"
                                           : "an error";
}
cudaError_t cudaPeekAtLastError() { return failed != cudaSuccess ? failed : last; }
cudaError_t cudaGetLastError() {
  auto found = cudaPeekAtLastError();
  last = cudaSuccess;
  return found;
}

// Memory.
cudaError_t cudaMalloc(void** address, size_t size) {
  ASKED;
  if (used + size > memory()) return error(cudaErrorMemoryAllocation);
  *address = memset(pages(size), 0xff, size);
  used += size;
  ranges[static_cast<char*>(*address)] = {size, DEVICE};
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  ASKED;
  if (!address) return cudaSuccess;
  auto code = forget(address, DEVICE);
  if (code == cudaSuccess && is_idle()) free(address);  // else it is left to operations that are under way
  return code;
}
cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
  ASKED;
  *total = memory();
  *left = *total - used;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
  ASKED;
  *address = memset(pages(size), 0xff, size);
  ranges[static_cast<char*>(*address)] = {size, PINNED};
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) { ASKED; return forget(address, PINNED); }
cudaError_t cudaHostRegister(void* address, size_t size, unsigned) {
  ASKED;
  if (setting("FAKE_CUDA_NO_LOCK", 0)) return error(cudaErrorMemoryAllocation);
  if (kind_of(address) != PAGEABLE) return error(cudaErrorHostMemoryAlreadyRegistered);
  ranges[static_cast<char*>(address)] = {size, LOCKED};
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* address) { ASKED; return forget(address, LOCKED); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
  ASKED;
  auto kind = kind_of(address);
  memset(found, 0, sizeof *found);
  found->type = kind == DEVICE     ? cudaMemoryTypeDevice
                : kind == PAGEABLE ? cudaMemoryTypeUnregistered
                                   : cudaMemoryTypeHost;
  found->devicePointer = kind == PAGEABLE ? nullptr : const_cast<void*>(address);
  found->hostPointer = kind == PINNED || kind == LOCKED ? const_cast<void*>(address) : nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  ASKED;
  if (kind_of(from) == PAGEABLE) {  // read at once, as into the driver's own buffers
    auto start = static_cast<const char*>(from);
    auto copy = std::make_shared<std::vector<char>>(start, start + size);
    add(stream, [=] { memcpy(to, copy->data(), size); });
    return cudaSuccess;
  }
  add(stream, [=] { memcpy(to, from, size); });
  if (kind_of(to) == PAGEABLE) wait_for_stream(lock, stream);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  auto code = cudaMemcpyAsync(to, from, size, kind, nullptr);
  fake_synchronize(nullptr);
  return code;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  ASKED;
  add(stream, [=] { memset(to, value, size); });
  return cudaSuccess;
}

// Streams.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  ASKED;
  static size_t handle = 0x1000;
  *stream = reinterpret_cast<cudaStream_t>(handle += 16);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  ASKED;
  return stream_of(stream)->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ASKED;
  wait_for_stream(lock, stream);
  return failed;
}
cudaError_t cudaDeviceSynchronize() {
  ASKED;
  auto all = streams;
  for (auto& [handle, _] : all) wait_for_stream(lock, handle);
  return failed;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  ASKED;
  auto record = reinterpret_cast<Event*>(event)->record;
  if (record && !record->done) add(stream, nullptr, record);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long*, cudaGraph_t*,
                                     const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

// Events.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  ASKED;
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  ASKED;
  auto record = std::make_shared<Record>();
  auto& operation = add(stream, [record] {
    record->when = Clock::now();
    record->done = true;
  });
  operation.records = true;
  record->stream = stream_of(stream);
  record->number = operation.number;
  reinterpret_cast<Event*>(event)->record = record;
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  ASKED;
  auto record = reinterpret_cast<Event*>(event)->record;
  return !record || record->done ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ASKED;
  auto record = reinterpret_cast<Event*>(event)->record;
  if (record) wait(lock, record->stream, record->number);
  return failed;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  ASKED;
  auto begun = reinterpret_cast<Event*>(from)->record, ended = reinterpret_cast<Event*>(to)->record;
  if (!begun || !ended) return error(cudaErrorInvalidResourceHandle);
  if (!begun->done || !ended->done) return error(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(ended->when - begun->when).count();
  return cudaSuccess;
}

// A kernel that reaches the runtime is none of kernels.py's: what it should compute would be missing.
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) {
  fprintf(stderr, "fake CUDA: a kernel was launched that kernels.py does not compute\n");
  abort();
}
cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  return __cudaLaunchKernel(nullptr, grid, block, arguments, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void** arguments) {
  return __cudaLaunchKernel(nullptr, {}, {}, arguments, 0, nullptr);
}
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
char __cudaInitModule(void**) { return 1; }

}  // extern "C"
