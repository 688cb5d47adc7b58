#include "strip_products.h"

namespace cotejar {

Scratch& strip_memory() {
    thread_local Scratch memory;
    return memory;
}

}  // namespace cotejar
