/* A plugin without the SDK: a manifest, and what the definitions ask for.
 *
 *   MANIFEST        the manifest, a string literal
 *   UNTERMINATED    its NUL and what follows are left out: the bytes that come next in the file are no zeros
 *   AT_LOAD         a statement that the system's loader runs
 *   HEADER          the root module's symbol is there, and holds this many bytes of noise
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef MANIFEST
#error "name a MANIFEST"
#endif

#ifdef UNTERMINATED
__attribute__((used, section(".data.unterminated")))
const char finetune_plugin_manifest[sizeof MANIFEST - 1] = MANIFEST;
#else
__attribute__((used)) const char finetune_plugin_manifest[] = MANIFEST;
#endif

#ifdef AT_LOAD
__attribute__((constructor)) static void at_load(void) { AT_LOAD; }
#endif

#ifdef HEADER
__attribute__((used)) unsigned char _1as_0lib_1header_0root_bmodule_bloader[HEADER] = {
    0xde, 0xad, 0xbe, 0xef, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c};
#endif
