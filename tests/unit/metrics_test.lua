-- lua/metrics.lua: what makes /healthz say that this server is not ready, each reason by itself and together.
local host, metrics, time = require "host", require "metrics", require "time"

local CELL, STEPS, TIMES, STRIDE = 256, 24, 3, 32
local good = { generation = function() return 1 end, peek = function() return { pem = "-----BEGIN" } end }

-- A server with workers whose hearts beat so many ms ago, on a disk with so many bytes free.
local function unready(with)
  local beats = {}
  for i, ago in ipairs(with.beats or { 5, 900 }) do beats[i] = string.pack("=i8I8I8i4", 100000 - ago, 1, 2, 1):sub(1, STRIDE) .. ("\0"):rep(STRIDE - 28) end
  local was, hearts, wall = host.meters, host.beats, time.wall
  host.meters = function() return ("\0"):rep(4 * CELL + TIMES * (STEPS + 1) * 8), with.free or 1 << 30 end
  host.beats = function() return table.concat(beats), STRIDE end
  time.wall = function() return with.wall or wall() end
  local ok, out = pcall(metrics.unready, setmetatable(with.store or {}, { __index = good }))
  host.meters, host.beats, time.wall = was, hearts, wall
  assert(ok, out)
  return table.concat(out, " ")
end

local function is(got, want) assert(got == want, ("got '%s', wanted '%s'"):format(got, want)) end

return {
  ["one that does its work has no reason"] = function()
    is(unready {}, "")
    is(unready { beats = { 0, 9999 }, free = 16 << 20, wall = host.build_time }, "")
  end,
  ["the store cannot be read"] = function() is(unready { store = { generation = function() return nil, "io" end } }, "store_unavailable") end,
  ["the CA is gone, or damaged"] = function()
    is(unready { store = { peek = function() end } }, "ca_unavailable")
    is(unready { store = { peek = function() return nil, "damaged" end } }, "ca_unavailable")
    is(unready { store = { peek = function() return {} end } }, "ca_unavailable")
  end,
  ["the clock is before this build"] = function() is(unready { wall = host.build_time - 1 }, "clock_unset") end,
  ["the disk is full"] = function() is(unready { free = (16 << 20) - 1 }, "disk_full") end,
  ["a worker stands still, which is said once for all of them"] = function()
    is(unready { beats = { 0, 10001 } }, "workers_late")
    is(unready { beats = { 0, 20000, 30000 } }, "workers_late")
  end,
  ["all that is wrong is said"] = function()
    is(unready { beats = { 0, 10001 }, free = 0, wall = 1, store = { generation = function() end, peek = function() end } },
      "store_unavailable ca_unavailable clock_unset disk_full workers_late")
  end,
}
