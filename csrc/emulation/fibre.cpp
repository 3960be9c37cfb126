#include "emulation/fibre.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "emulation/sanitizer.h"

#if defined(__x86_64__) && !defined(FIDFAST_EMULATION_UCONTEXT)
#define FIDFAST_OWN_SWITCH
#else
#include <ucontext.h>
#endif

namespace fidfast::emulation {
namespace {

constexpr size_t kStack = 256 * 1024;  // address space: the system gives memory to the pages that are touched
constexpr size_t kGuard = 64 * 1024;   // an overflow ends here
constexpr size_t kStagger = 16 * 1024;  // so that the stacks' hot ends do not compete for the same cache lines

}  // namespace

#if defined(FIDFAST_OWN_SWITCH)

// Saves what a call must preserve on the present stack, and goes on with what the other stack saved.
extern "C" void fidfast_switch_stack(void** save, void* load);
asm(R"(
.text
.globl fidfast_switch_stack
.hidden fidfast_switch_stack
.type fidfast_switch_stack, @function
fidfast_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size fidfast_switch_stack, .-fidfast_switch_stack
.globl fidfast_start_fibre
.hidden fidfast_start_fibre
.type fidfast_start_fibre, @function
fidfast_start_fibre:
    movq %r12, %rdi
    callq *%r13
    ud2
.size fidfast_start_fibre, .-fidfast_start_fibre
)");
extern "C" void fidfast_start_fibre();

static void switch_stack(void** save, void* load) { fidfast_switch_stack(save, load); }

static void* first_context(char* stack, size_t size, void (*run)(Fibre*), Fibre* self) {
    auto* slot = reinterpret_cast<uintptr_t*>(stack + size) - 1;  // after the return: 16-byte aligned, as at a call
    *slot = reinterpret_cast<uintptr_t>(&fidfast_start_fibre);
    const uintptr_t registers[] = {0, 0, reinterpret_cast<uintptr_t>(run), reinterpret_cast<uintptr_t>(self), 0, 0};
    for (int i = 0; i < 6; i++) slot[i - 6] = registers[i];  // r15, r14, r13, r12, rbx, rbp
    return slot - 6;
}

#else

static void switch_stack(void** save, void* load) {
    ucontext_t here;
    *save = &here;  // lives on the stack that is left
    swapcontext(&here, static_cast<ucontext_t*>(load));
}

static void* first_context(char* stack, size_t size, void (*run)(Fibre*), Fibre* self) {
    auto* context = reinterpret_cast<ucontext_t*>(stack + size - sizeof(ucontext_t) - 64);
    context = reinterpret_cast<ucontext_t*>(reinterpret_cast<uintptr_t>(context) & ~uintptr_t(63));
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = size_t(reinterpret_cast<char*>(context) - stack);
    context->uc_link = nullptr;
    makecontext(context, reinterpret_cast<void (*)()>(run), 1, self);
    return context;
}

#endif

char* Fibre::all_stacks_ = nullptr;
char* Fibre::end_of_stacks_ = nullptr;

char* Fibre::stack_of(size_t index) {
    constexpr size_t each = kStack + kGuard;
    if (!all_stacks_) {
        void* memory =
            mmap(nullptr, kMost * each, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        all_stacks_ = static_cast<char*>(memory);
        end_of_stacks_ = all_stacks_ + kMost * each;
        for (size_t i = 0; i < kMost; i++) mprotect(all_stacks_ + i * each, kGuard, PROT_NONE);
    }
    return all_stacks_ + index * each + kGuard;
}

void Fibre::prepare(Entry entry, void* argument, size_t index) {
    stack_ = stack_of(index);
    if (has_frames_) ASAN_UNPOISON_MEMORY_REGION(stack_, kStack);
    has_frames_ = false;
    entry_ = entry;
    argument_ = argument;
    own_fakes_ = nullptr;
    context_ = first_context(stack_, kStack - index * 320 % kStagger, &Fibre::run, this);
}

void Fibre::run(Fibre* self) {
    __sanitizer_finish_switch_fiber(nullptr, &self->caller_stack_, &self->caller_stack_size_);
    self->entry_(self->argument_);
    self->has_frames_ = false;
    self->leave(true);
    abort();  // nobody resumes a finished fibre
}

void Fibre::resume() {
    __sanitizer_start_switch_fiber(&caller_fakes_, stack_, kStack);
    has_frames_ = true;
    switch_stack(&caller_, context_);
    __sanitizer_finish_switch_fiber(caller_fakes_, nullptr, nullptr);
}

void Fibre::leave(bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &own_fakes_, caller_stack_, caller_stack_size_);
    switch_stack(&context_, caller_);
    __sanitizer_finish_switch_fiber(own_fakes_, &caller_stack_, &caller_stack_size_);
}

void Fibre::yield() { leave(false); }

void Fibre::finish() {
    leave(true);
    abort();
}

}  // namespace fidfast::emulation
