; A disk that boots: counts on the serial port, and reads a word from its second sector each time.
; nasm -f bin boot-sector.asm; the first sector is this, the second begins with a word of eight letters.
bits 16
org 0x7c00
start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov [drive], dl
    sti
next:
    mov ax, 0x0201          ; read one sector
    mov cx, 0x0002          ; the second of the first track
    xor dx, dx
    mov dl, [drive]
    mov bx, 0x8000
    int 0x13
    jc next
    mov si, 0x8000
    mov di, word_at
    mov cx, 8
    rep movsb
    mov di, digits + 4
carry:
    inc byte [di]
    cmp byte [di], '9'
    jbe print
    mov byte [di], '0'
    dec di
    cmp di, digits
    jae carry
print:
    mov si, line
put:
    mov dx, 0x3fd           ; wait until the port takes a character
    in al, dx
    test al, 0x20
    jz put
    lodsb
    test al, al
    jz rest
    mov dx, 0x3f8
    out dx, al
    jmp put
rest:
    mov cx, 0x0000          ; 50,000 microseconds
    mov dx, 0xc350
    mov ah, 0x86
    int 0x15
    jmp next
drive: db 0
line: db "boot: "
digits: db "00000 "
word_at: db "........", 13, 10, 0
times 510 - ($ - $$) db 0
dw 0xaa55
