/* Prints what this machine's headers say about the kernel structures and numbers that Curling uses, "name value" a line.
 * PAGEMAP_SCAN is declared here as the kernel's documentation has it where the headers are older than Linux 6.7. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

#ifndef PAGEMAP_SCAN
struct page_region { __u64 start, end, categories; };
struct pm_scan_arg {
    __u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
    __u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#endif

#define NUMBER(name) printf("%s %llu\n", #name, (unsigned long long)(name))
#define SIZE(type) printf("sizeof(%s) %zu\n", #type, sizeof(struct type))
#define PLACE(type, field) printf("%s.%s %zu\n", #type, #field, offsetof(struct type, field))

int main(void)
{
    NUMBER(PROT_READ); NUMBER(PROT_WRITE); NUMBER(MAP_SHARED); NUMBER(MAP_PRIVATE); NUMBER(MAP_ANONYMOUS);
    NUMBER(FALLOC_FL_KEEP_SIZE); NUMBER(FALLOC_FL_PUNCH_HOLE); NUMBER(MADV_DONTNEED);
    NUMBER(MS_NOSUID); NUMBER(MS_NODEV);
    NUMBER(SEEK_DATA); NUMBER(SEEK_HOLE); NUMBER(ENOSPC); NUMBER(EINTR); NUMBER(O_CLOEXEC); NUMBER(O_NONBLOCK);
#ifdef MADV_POPULATE_WRITE
    NUMBER(MADV_POPULATE_WRITE);
#endif

    NUMBER(O_RDONLY); NUMBER(FALLOC_FL_ZERO_RANGE); NUMBER(SEEK_END); NUMBER(RWF_NOWAIT);
    NUMBER(F_OFD_GETLK); NUMBER(F_OFD_SETLK); NUMBER(F_RDLCK); NUMBER(F_WRLCK); NUMBER(F_UNLCK); NUMBER(BLKGETSIZE64);
    NUMBER(S_IFMT); NUMBER(S_IFREG); NUMBER(S_IFBLK); NUMBER(S_IFDIR); NUMBER(MSG_DONTWAIT); NUMBER(MSG_NOSIGNAL);
    NUMBER(SOL_SOCKET); NUMBER(SO_SNDBUFFORCE);
    NUMBER(AT_EMPTY_PATH); NUMBER(STATX_TYPE);
    NUMBER(ENXIO); NUMBER(EISDIR); NUMBER(EROFS); NUMBER(ENOLCK); NUMBER(EOPNOTSUPP); NUMBER(EDQUOT);

    NUMBER(PTRACE_CONT); NUMBER(PTRACE_SINGLESTEP); NUMBER(PTRACE_GETREGS); NUMBER(PTRACE_SETREGS); NUMBER(PTRACE_DETACH);
    NUMBER(PTRACE_SEIZE); NUMBER(PTRACE_INTERRUPT);
    NUMBER(PTRACE_GETSIGINFO); NUMBER(PTRACE_GETSIGMASK); NUMBER(PTRACE_SETSIGMASK); NUMBER(PTRACE_EVENT_STOP);
    NUMBER(SIGTRAP); NUMBER(SYS_close);
    NUMBER(SYS_userfaultfd); NUMBER(SYS_pidfd_open); NUMBER(SYS_pidfd_getfd);

    NUMBER(UFFD_API); NUMBER(UFFDIO_API); NUMBER(UFFDIO_REGISTER); NUMBER(UFFDIO_UNREGISTER);
    NUMBER(UFFDIO_WRITEPROTECT); NUMBER(UFFDIO_WRITEPROTECT_MODE_WP);
    NUMBER(UFFD_FEATURE_PAGEFAULT_FLAG_WP); NUMBER(UFFDIO_REGISTER_MODE_WP);
#ifdef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    NUMBER(UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
#endif
#ifdef UFFD_FEATURE_WP_UNPOPULATED
    NUMBER(UFFD_FEATURE_WP_UNPOPULATED);
#endif
#ifdef UFFD_FEATURE_WP_ASYNC
    NUMBER(UFFD_FEATURE_WP_ASYNC);
#endif
    SIZE(uffdio_api); PLACE(uffdio_api, api); PLACE(uffdio_api, features); PLACE(uffdio_api, ioctls);
    SIZE(uffdio_register); PLACE(uffdio_register, range.start); PLACE(uffdio_register, range.len);
    PLACE(uffdio_register, mode); PLACE(uffdio_register, ioctls);
    SIZE(uffdio_writeprotect); PLACE(uffdio_writeprotect, range.start); PLACE(uffdio_writeprotect, range.len);
    PLACE(uffdio_writeprotect, mode);

    NUMBER(O_RDWR); NUMBER(AF_INET); NUMBER(SOCK_DGRAM); NUMBER(SOCK_CLOEXEC); NUMBER(EFD_CLOEXEC); NUMBER(EFD_NONBLOCK);
    NUMBER(TUNSETIFF); NUMBER(IFF_TAP); NUMBER(IFF_NO_PI); NUMBER(IFF_UP); NUMBER(IFNAMSIZ);
    NUMBER(SIOCGIFFLAGS); NUMBER(SIOCSIFFLAGS); NUMBER(SIOCGIFMTU); NUMBER(SIOCSIFMTU); NUMBER(SIOCGIFINDEX); NUMBER(SIOCBRADDIF);
    NUMBER(POLLIN); NUMBER(POLLOUT); NUMBER(EPERM); NUMBER(ENOENT); NUMBER(EIO); NUMBER(EAGAIN); NUMBER(EACCES); NUMBER(EBUSY);
    NUMBER(ENODEV); NUMBER(EINVAL); NUMBER(ENETDOWN);
    SIZE(ifreq); PLACE(ifreq, ifr_name); PLACE(ifreq, ifr_flags);
    SIZE(pollfd); PLACE(pollfd, fd); PLACE(pollfd, events); PLACE(pollfd, revents);

    NUMBER(PAGEMAP_SCAN);
    SIZE(pm_scan_arg); PLACE(pm_scan_arg, size); PLACE(pm_scan_arg, flags); PLACE(pm_scan_arg, start); PLACE(pm_scan_arg, end);
    PLACE(pm_scan_arg, walk_end); PLACE(pm_scan_arg, vec); PLACE(pm_scan_arg, vec_len); PLACE(pm_scan_arg, max_pages);
    PLACE(pm_scan_arg, category_inverted); PLACE(pm_scan_arg, category_mask); PLACE(pm_scan_arg, category_anyof_mask);
    PLACE(pm_scan_arg, return_mask);
    SIZE(page_region); PLACE(page_region, start); PLACE(page_region, end); PLACE(page_region, categories);

    printf("sizeof(siginfo_t) %zu\nsiginfo_t.si_signo %zu\nsiginfo_t.si_errno %zu\nsiginfo_t.si_code %zu\n", sizeof(siginfo_t),
           offsetof(siginfo_t, si_signo), offsetof(siginfo_t, si_errno), offsetof(siginfo_t, si_code));
    SIZE(msghdr); PLACE(msghdr, msg_name); PLACE(msghdr, msg_namelen); PLACE(msghdr, msg_iov); PLACE(msghdr, msg_iovlen);
    PLACE(msghdr, msg_control); PLACE(msghdr, msg_controllen); PLACE(msghdr, msg_flags);
    SIZE(flock); PLACE(flock, l_type); PLACE(flock, l_whence); PLACE(flock, l_start); PLACE(flock, l_len); PLACE(flock, l_pid);
    SIZE(statx); PLACE(statx, stx_mode); PLACE(statx, stx_ino); PLACE(statx, stx_size); PLACE(statx, stx_ctime.tv_sec);
    PLACE(statx, stx_ctime.tv_nsec); PLACE(statx, stx_rdev_major); PLACE(statx, stx_rdev_minor); PLACE(statx, stx_dev_major);
    PLACE(statx, stx_dev_minor);
    SIZE(iovec); PLACE(iovec, iov_base); PLACE(iovec, iov_len);
    SIZE(user_regs_struct);
    PLACE(user_regs_struct, r15); PLACE(user_regs_struct, r14); PLACE(user_regs_struct, r13); PLACE(user_regs_struct, r12);
    PLACE(user_regs_struct, rbp); PLACE(user_regs_struct, rbx); PLACE(user_regs_struct, r11); PLACE(user_regs_struct, r10);
    PLACE(user_regs_struct, r9); PLACE(user_regs_struct, r8); PLACE(user_regs_struct, rax); PLACE(user_regs_struct, rcx);
    PLACE(user_regs_struct, rdx); PLACE(user_regs_struct, rsi); PLACE(user_regs_struct, rdi); PLACE(user_regs_struct, orig_rax);
    PLACE(user_regs_struct, rip); PLACE(user_regs_struct, cs); PLACE(user_regs_struct, eflags); PLACE(user_regs_struct, rsp);
    PLACE(user_regs_struct, ss); PLACE(user_regs_struct, fs_base); PLACE(user_regs_struct, gs_base); PLACE(user_regs_struct, ds);
    PLACE(user_regs_struct, es); PLACE(user_regs_struct, fs); PLACE(user_regs_struct, gs);
    return 0;
}
