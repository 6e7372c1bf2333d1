; The built-in guest of Curling: a bare-metal program that is its own firmware.
;
; QEMU maps this 64 KiB image below 4 GiB (-bios) and the processor starts at its last 16 bytes. It enters 32-bit
; protected mode with flat segments and then, for ever:
;   - dirties a working set, page by page in order ("a sweep"), at a given number of pages a second;
;   - ten times a second verifies the whole working set and prints a line on the serial port.
;
; A page that sweep s has passed holds s, one that it has not reached yet holds s-1. So at any instant the memory tells
; where the sweep stands, and memory that was put together from two instants is found out ("TORN").
;
; Its settings come in the fw_cfg file opt/org.curling.append: "ws=32M rate=5000"
;   ws    the working set, with K or M behind the number; default 8M
;   rate  pages of 4 KiB dirtied a second; default 500; 0 is as fast as the processor can
;   burst every other eight lines the rate is so many times as high; default 1
;
; Assemble with: nasm -f bin -o builtin-guest.bin builtin-guest.asm

        org     0xFFFF0000
        bits    16

; ---- where things are in RAM ----------------------------------------------------------------------------------------
HEADER          equ 0x8000              ; what a program outside may read
H_LINES         equ HEADER + 8          ; u64: lines printed
H_PAGES         equ HEADER + 16         ; u64: pages dirtied
H_SWEEP         equ HEADER + 24         ; u32: the sweep under way, from 1
H_CURSOR        equ HEADER + 28         ; u32: the next page of it
H_WS            equ HEADER + 32         ; u32: pages of the working set
H_TORN          equ HEADER + 36         ; u32: 1 once the memory was found torn
TICKS           equ 0x8100              ; u32: timer interrupts
SEEN            equ 0x8104              ; u32: those that were worked off
RATE            equ 0x8108              ; u32: pages a second
TOKENS          equ 0x810C              ; u32: pages owed, times TICK_HZ
LINE_IN         equ 0x8110              ; u32: ticks until the next line
TORN_PAGE       equ 0x8114
TORN_EXPECTED   equ 0x8118
TORN_FOUND      equ 0x811C
BURST           equ 0x812C              ; u32: how many times the rate a burst has
FW_SIZE         equ 0x8120
FW_SELECT       equ 0x8124
ENTRY           equ 0x8200              ; one entry of the fw_cfg directory, 64 bytes
COMMAND         equ 0x8300              ; the command line, 255 bytes and a zero
IDT             equ 0x9000              ; 48 gates of 8 bytes
STACK           equ 0x7000
WORKING_SET     equ 0x01000000          ; 16 MiB

COM1            equ 0x3F8
FW_CFG_SELECT   equ 0x510
FW_CFG_DATA     equ 0x511
FW_CFG_RAM      equ 0x0003
FW_CFG_DIR      equ 0x0019
APIC_SPURIOUS   equ 0xFEE000F0
APIC_LINT0      equ 0xFEE00350
PIT_HZ          equ 1193182
TICK_HZ         equ 500
TICKS_PER_LINE  equ TICK_HZ / 10
MAX_TICKS       equ TICK_HZ / 10        ; after a long gap no more than this is caught up
BATCH           equ 64                  ; pages between two looks at the clock when there is no rate

; ---- 16-bit entry ---------------------------------------------------------------------------------------------------
start16:
        cli
        cld
        in      al, 0x92                ; the A20 line, the fast way
        or      al, 2
        and     al, 0xFE
        out     0x92, al
        o32 lgdt [cs:gdt_pointer - start16]
        mov     eax, cr0
        or      eax, 1
        and     eax, 0x9FFFFFFF         ; caches on
        mov     cr0, eax
        jmp     dword 0x08:start32

        align   8
gdt:    dq      0
        dq      0x00CF9B000000FFFF      ; 0x08: code, flat
        dq      0x00CF93000000FFFF      ; 0x10: data, flat
gdt_pointer:
        dw      gdt_pointer - gdt - 1
        dd      gdt

; ---- 32-bit ---------------------------------------------------------------------------------------------------------
        bits    32
start32:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     fs, ax
        mov     gs, ax
        mov     esp, STACK

        mov     edi, HEADER             ; all variables start at zero
        xor     eax, eax
        mov     ecx, 0x2000 / 4
        rep stosd
        mov     dword [HEADER], 'CURL'
        mov     dword [HEADER + 4], 'GST1'
        mov     dword [H_WS], (8 << 20) >> 12
        mov     dword [RATE], 500
        mov     dword [BURST], 1
        mov     dword [H_SWEEP], 1
        mov     dword [LINE_IN], TICKS_PER_LINE

        call    serial_open
        call    read_command
        call    parse_command
        call    clamp_working_set
        call    clear_working_set
        call    timer_open

        mov     esi, text_started
        call    print
        mov     eax, [H_WS]
        call    print_number
        mov     esi, text_pages_rate
        call    print
        mov     eax, [RATE]
        call    print_number
        mov     esi, text_pages_end
        call    print

; ---- the main loop --------------------------------------------------------------------------------------------------
; Interrupts are let in at one place only, with nothing under way. The handler then drops its frame and begins the loop
; anew: no return from interrupt is needed, which some hosts cannot emulate.
main:
        mov     eax, [TICKS]
        sub     eax, [SEEN]
        jnz     .ticked
        cmp     dword [RATE], 0
        je      .flat_out
        sti                             ; takes effect after the next instruction
        hlt
        cli
        jmp     main
.flat_out:
        mov     ecx, BATCH
        call    dirty
        sti
        nop
        out     0x80, al                ; a port nobody listens to: a moment in which an interrupt surely gets in
        cli
        jmp     main

.ticked:
        add     [SEEN], eax
        cmp     eax, MAX_TICKS
        jbe     .in_time
        mov     eax, MAX_TICKS
.in_time:
        mov     ebx, eax                ; ticks to work off
        mov     ecx, [RATE]
        test    byte [H_LINES], 8
        jz      .steady
        imul    ecx, [BURST]
.steady:
        mul     ecx                     ; pages owed = ticks * rate / TICK_HZ, with the rest kept
        add     eax, [TOKENS]
        xor     edx, edx
        mov     ecx, TICK_HZ
        div     ecx
        mov     [TOKENS], edx
        mov     ecx, eax
        jecxz   .no_pages
        call    dirty
.no_pages:
        sub     [LINE_IN], ebx
        jg      main
        mov     dword [LINE_IN], TICKS_PER_LINE
        call    verify
        call    print_line
        jmp     main

; Dirties the next ecx pages of the sweep. Writes the page first and moves the cursor after it.
dirty:
        mov     edi, [H_CURSOR]
        mov     edx, [H_SWEEP]
.page:
        mov     eax, edi
        shl     eax, 12
        add     eax, WORKING_SET        ; eax: the page
        mov     [eax], edx
        lea     esi, [edi + edi + 1]    ; the last dword mixes sweep and page
        imul    esi, edx
        mov     [eax + 4092], esi
        imul    esi, edi, 24            ; a third dword wanders through the page
        and     esi, 0xFE0
        imul    ebp, edx, 0x9E3779B1
        mov     [eax + esi + 8], ebp
        inc     edi
        mov     [H_CURSOR], edi
        add     dword [H_PAGES], 1
        adc     dword [H_PAGES + 4], 0
        cmp     edi, [H_WS]
        jb      .same_sweep
        xor     edi, edi                ; the order matters: sweep s at page ws is sweep s+1 at page 0
        inc     edx
        mov     [H_SWEEP], edx
        mov     [H_CURSOR], edi
.same_sweep:
        dec     ecx
        jnz     .page
        ret

; Holds every page against where the sweep stands.
verify:
        cmp     dword [H_TORN], 0
        jne     .done
        xor     edi, edi
.page:
        mov     edx, [H_SWEEP]
        cmp     edi, [H_CURSOR]
        jb      .passed
        dec     edx
.passed:
        mov     eax, edi
        shl     eax, 12
        add     eax, WORKING_SET
        mov     ebx, [eax]
        cmp     ebx, edx
        jne     .torn
        lea     esi, [edi + edi + 1]
        imul    esi, edx
        mov     ebx, [eax + 4092]
        cmp     ebx, esi
        jne     .torn
        imul    esi, edi, 24
        and     esi, 0xFE0
        mov     ebx, [eax + esi + 8]
        imul    ebp, edx, 0x9E3779B1
        cmp     ebx, ebp
        jne     .torn
        inc     edi
        cmp     edi, [H_WS]
        jb      .page
.done:  ret
.torn:
        mov     dword [H_TORN], 1
        mov     [TORN_PAGE], edi
        mov     [TORN_EXPECTED], edx
        mov     [TORN_FOUND], ebx
        ret

print_line:
        add     dword [H_LINES], 1
        adc     dword [H_LINES + 4], 0
        mov     esi, text_count
        call    print
        mov     eax, [H_LINES]
        mov     edx, [H_LINES + 4]
        mov     ecx, 6
        call    print_padded
        mov     esi, text_sweep
        call    print
        mov     eax, [H_SWEEP]
        call    print_number
        mov     esi, text_page
        call    print
        mov     eax, [H_CURSOR]
        call    print_number
        mov     esi, text_pages
        call    print
        mov     eax, [H_PAGES]
        mov     edx, [H_PAGES + 4]
        mov     ecx, 1
        call    print_padded
        cmp     dword [H_TORN], 0
        jne     .torn
        mov     esi, text_consistent
        jmp     print
.torn:
        mov     esi, text_torn
        call    print
        mov     eax, [TORN_PAGE]
        call    print_number
        mov     esi, text_expected
        call    print
        mov     eax, [TORN_EXPECTED]
        call    print_number
        mov     esi, text_found
        call    print
        mov     eax, [TORN_FOUND]
        call    print_number
        mov     esi, text_newline
        jmp     print

; ---- serial port ----------------------------------------------------------------------------------------------------
serial_open:
        mov     dx, COM1 + 1
        xor     al, al
        out     dx, al                  ; no interrupts
        mov     dx, COM1 + 3
        mov     al, 0x80
        out     dx, al                  ; divisor follows
        mov     dx, COM1
        mov     al, 1
        out     dx, al                  ; 115200 baud
        mov     dx, COM1 + 1
        xor     al, al
        out     dx, al
        mov     dx, COM1 + 3
        mov     al, 3
        out     dx, al                  ; 8N1
        mov     dx, COM1 + 2
        mov     al, 7
        out     dx, al                  ; FIFOs on
        ret

put:                                    ; al: the character
        push    edx
        push    eax
        mov     dx, COM1 + 5
.wait:  in      al, dx
        test    al, 0x20
        jz      .wait
        pop     eax
        mov     dx, COM1
        out     dx, al
        pop     edx
        ret

print:                                  ; esi: text that ends with zero
        lodsb
        test    al, al
        jz      .end
        call    put
        jmp     print
.end:   ret

print_number:                           ; eax: the number
        xor     edx, edx
        mov     ecx, 1
print_padded:                           ; edx:eax: the number, ecx: digits at least
        push    ebx
        push    edi
        push    ebp
        mov     ebx, 10
        xor     edi, edi
        mov     ebp, edx
.digit: xchg    eax, ebp                ; the high half first, its remainder goes into the low half's division
        xor     edx, edx
        div     ebx
        xchg    eax, ebp
        div     ebx
        push    edx
        inc     edi
        mov     edx, eax
        or      edx, ebp
        jnz     .digit
        cmp     edi, ecx
        jb      .digit
.out:   pop     eax
        add     al, '0'
        call    put
        dec     edi
        jnz     .out
        pop     ebp
        pop     edi
        pop     ebx
        ret

; ---- settings from fw_cfg (qemu: docs/specs/fw_cfg) -----------------------------------------------------------------
fw_read:                                ; reads ecx bytes to edi
        mov     dx, FW_CFG_DATA
.byte:  in      al, dx
        stosb
        loop    .byte
        ret

read_command:
        mov     dx, FW_CFG_SELECT
        mov     ax, FW_CFG_DIR
        out     dx, ax
        mov     edi, ENTRY
        mov     ecx, 4
        call    fw_read
        mov     ebx, [ENTRY]
        bswap   ebx                     ; entries
        cmp     ebx, 4096
        ja      .none
.entry: test    ebx, ebx
        jz      .none
        dec     ebx
        mov     edi, ENTRY
        mov     ecx, 64
        call    fw_read
        mov     esi, ENTRY + 8
        mov     edi, text_file
        mov     ecx, text_file_end - text_file
        repe cmpsb
        jne     .entry
        mov     ecx, [ENTRY]
        bswap   ecx                     ; its size
        cmp     ecx, 255
        jbe     .fits
        mov     ecx, 255
.fits:  jecxz   .none
        mov     ax, [ENTRY + 4]
        xchg    al, ah                  ; its key
        mov     dx, FW_CFG_SELECT
        out     dx, ax
        mov     edi, COMMAND
        call    fw_read
.none:  ret

parse_command:
        mov     esi, COMMAND
.next:  mov     al, [esi]
        test    al, al
        jz      .done
        cmp     dword [esi], 'rate'
        jne     .not_rate
        cmp     byte [esi + 4], '='
        jne     .skip
        add     esi, 5
        call    number
        mov     [RATE], eax
        jmp     .next
.not_rate:
        cmp     dword [esi], 'burs'
        jne     .not_burst
        cmp     word [esi + 4], 't='
        jne     .skip
        add     esi, 6
        call    number
        test    eax, eax
        jz      .next
        mov     [BURST], eax
        jmp     .next
.not_burst:
        cmp     word [esi], 'ws'
        jne     .skip
        cmp     byte [esi + 2], '='
        jne     .skip
        add     esi, 3
        call    number
        mov     dl, [esi]
        or      dl, 0x20
        cmp     dl, 'k'
        jne     .not_k
        shr     eax, 2                  ; KiB to pages
        jmp     .ws
.not_k: cmp     dl, 'm'
        jne     .bytes
        shl     eax, 8                  ; MiB to pages
        jmp     .ws
.bytes: shr     eax, 12
.ws:    test    eax, eax
        jnz     .some
        inc     eax
.some:  mov     [H_WS], eax
        jmp     .next
.skip:  inc     esi
        jmp     .next
.done:  ret

number:                                 ; reads digits at esi into eax
        xor     eax, eax
.digit: movzx   edx, byte [esi]
        sub     edx, '0'
        cmp     edx, 9
        ja      .end
        imul    eax, eax, 10
        add     eax, edx
        inc     esi
        jmp     .digit
.end:   ret

clamp_working_set:
        mov     dx, FW_CFG_SELECT
        mov     ax, FW_CFG_RAM
        out     dx, ax
        mov     edi, FW_SIZE
        mov     ecx, 8
        call    fw_read
        mov     eax, [FW_SIZE]
        cmp     dword [FW_SELECT], 0    ; the high half of the size
        jne     .large
        cmp     eax, 0x80000000         ; above 2 GiB some machines have no RAM below 4 GiB
        jbe     .fits
.large: mov     eax, 0x80000000
.fits:  sub     eax, WORKING_SET
        jbe     no_room
        shr     eax, 12
        cmp     [H_WS], eax
        jbe     .done
        mov     [H_WS], eax
.done:  ret

no_room:                                ; there is no memory to be consistent: say so and stand still
        mov     esi, text_no_room
        call    print
.halt:  hlt
        jmp     .halt

; After a reset the working set may hold an earlier life's sweeps. Only pages that hold something are written, so that a
; fresh guest does not touch memory it need not.
clear_working_set:
        xor     edi, edi
        xor     edx, edx
.page:  mov     eax, edi
        shl     eax, 12
        add     eax, WORKING_SET
        imul    esi, edi, 24
        and     esi, 0xFE0
        mov     ebx, [eax]
        or      ebx, [eax + 4092]
        or      ebx, [eax + esi + 8]
        jz      .clean
        mov     [eax], edx
        mov     [eax + 4092], edx
        mov     [eax + esi + 8], edx
.clean: inc     edi
        cmp     edi, [H_WS]
        jb      .page
        ret

; ---- timer ----------------------------------------------------------------------------------------------------------
timer_open:
        mov     dword [APIC_SPURIOUS], 0x1FF    ; the local APIC lets the interrupt controllers through
        mov     dword [APIC_LINT0], 0x700
        mov     edi, IDT                ; every vector leads to one of two handlers
        mov     ecx, 48
        mov     eax, other_interrupt
.gate:  call    set_gate
        loop    .gate
        mov     edi, IDT + (0x20 * 8)
        mov     eax, timer_interrupt
        call    set_gate
        lidt    [idt_pointer]

        mov     al, 0x11                ; both interrupt controllers: vectors 0x20 and 0x28, only the timer
        out     0x20, al
        out     0xA0, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 0x28
        out     0xA1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xA1, al
        mov     al, 1
        out     0x21, al
        out     0xA1, al
        mov     al, 0xFE
        out     0x21, al
        mov     al, 0xFF
        out     0xA1, al

        mov     al, 0x34                ; timer 0: mode 2, TICK_HZ
        out     0x43, al
        mov     ax, PIT_HZ / TICK_HZ
        out     0x40, al
        mov     al, ah
        out     0x40, al
        ret

set_gate:                               ; eax: handler, edi: gate; moves edi on
        mov     edx, eax
        mov     [edi], ax
        mov     word [edi + 2], 0x08
        mov     word [edi + 4], 0x8E00
        shr     edx, 16
        mov     [edi + 6], dx
        add     edi, 8
        ret

timer_interrupt:
        inc     dword [TICKS]
        mov     al, 0x20
        out     0x20, al
        mov     esp, STACK
        jmp     main

other_interrupt:
        mov     esp, STACK
        jmp     main

        align   4
idt_pointer:
        dw      (48 * 8) - 1
        dd      IDT

text_file:       db "opt/org.curling.append", 0
text_file_end:
text_started:    db "curling-guest: started, working set ", 0
text_pages_rate: db " pages, ", 0
text_pages_end:  db " pages/s", 13, 10, 0
text_no_room:    db "curling-guest: more than 16 MiB of memory are needed", 13, 10, 0
text_count:      db "curling-guest: count=", 0
text_sweep:      db " sweep=", 0
text_page:       db " page=", 0
text_pages:      db " pages=", 0
text_consistent: db " memory=consistent", 13, 10, 0
text_torn:       db " memory=TORN page=", 0
text_expected:   db " expected=", 0
text_found:      db " found=", 0
text_newline:    db 13, 10, 0

; ---- the reset vector -----------------------------------------------------------------------------------------------
        times   0xFFF0 - ($ - $$) db 0
        bits    16
        jmp     start16
        times   0x10000 - ($ - $$) db 0
