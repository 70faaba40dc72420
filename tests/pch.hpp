// SPDX-License-Identifier: MIT
// The precompiled header of the tests: Catch2 is slow to parse once, not once per file.
#ifndef PV_TESTS_PCH_HPP
#define PV_TESTS_PCH_HPP

#include <catch2/catch.hpp>

#include "base/pch.hpp"

#endif
