/* SPDX-License-Identifier: GPL-2.0 OR MIT
 * Every scheduler. A new one is a new file, a line here, a number in abi.h's enum scheduler and its name in
 * src/pylvs/model/service.py.
 */
#pragma once
#include "dh.h"
#include "fo.h"
#include "lblc.h"
#include "lblcr.h"
#include "lc.h"
#include "mh.h"
#include "nq.h"
#include "ovf.h"
#include "rr.h"
#include "sed.h"
#include "sh.h"
#include "wlc.h"
#include "wrr.h"
