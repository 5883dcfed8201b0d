--- What all workers counted since the server began (section meter of proxy.c): read, and written in Prometheus' text format
-- (exposition format 0.0.4). Names in it are agents, credentials and codes: no host, path or secret.
local M = {}

local CELL, NAME, STATUSES, STEPS, TIMES = 256, 72, 6, 24, 3      -- struct meter_cell, struct meters
local REQUEST, CODE, COUNT = 1, 2, 3                              -- enum meter_kind, and one
local STALL_MS = 10000          -- as lua/cli/master.lua
local DISK_MIN = 16 << 20       -- bytes: the store and the log cannot go on for long
local ROWS = 64                 -- questions that are read at once, and
local QUESTIONS_MAX = 1024      -- at most

local unpack = string.unpack

local function name(bytes, at) return (unpack("z", bytes, at)) end

--- What was counted | nil: this process shares nothing with a server.
-- { requests = { { agent, credential, refused = { [0] = n, … 5 }, allowed = { … } } }, codes = { code = n }, counts = { [name] = { [label] = n } },
--   took = { { [0] = n …, sum = ms } for the first byte, all of it, until it was decided }, workers = { { conns, memory, ready, late } }, free }
function M.read(host)
  local bytes, free = host.meters()
  if not bytes then return nil end
  local beats, stride = host.beats()
  local out = { requests = {}, codes = {}, counts = {}, took = {}, workers = {}, free = free }
  local cells = (#bytes - TIMES * (STEPS + 1) * 8) // CELL
  for i = 0, cells - 1 do
    local at = i * CELL + 1
    local other = i < COUNT
    local kind = other and i + 1 or unpack("=I8", bytes, at + 8)
    local n = { unpack("=" .. ("I8"):rep(2 * STATUSES), bytes, at + 16 + 2 * NAME) }
    local a, b = name(bytes, at + 16), name(bytes, at + 16 + NAME)
    if other then a, b = "other", "other" end
    local counted = 0
    for j = 1, 2 * STATUSES do counted = counted + n[j] end
    if counted == 0 then goto next end
    if kind == REQUEST then
      local row = { agent = a, credential = b, refused = {}, allowed = {} }
      for s = 0, STATUSES - 1 do row.refused[s], row.allowed[s] = n[s + 1], n[STATUSES + s + 1] end
      out.requests[#out.requests + 1] = row
    elseif kind == CODE then
      out.codes[a] = n[1]
    elseif kind == COUNT then
      out.counts[a] = out.counts[a] or {}
      out.counts[a][b] = n[1]
    end
    ::next::
  end
  for t = 1, TIMES do
    local at, row = cells * CELL + (t - 1) * (STEPS + 1) * 8 + 1, {}
    for step = 0, STEPS - 1 do row[step] = unpack("=I8", bytes, at + step * 8) end
    row.sum = unpack("=I8", bytes, at + STEPS * 8)
    out.took[t] = row
  end
  local newest = 0
  for at = 1, #beats, stride do
    local seen, conns, memory, ready = unpack("=i8I8I8i4", beats, at)
    newest = math.max(newest, seen)
    out.workers[#out.workers + 1] = { conns = conns, memory = memory, ready = ready ~= 0, seen = seen }
  end
  -- The others' hearts against the one that beat last: ours.
  for _, w in ipairs(out.workers) do w.late = newest - w.seen > STALL_MS end
  return out
end

--- How many requests wait for a person.
function M.waiting(store, now)
  local n, seen, after = 0, 0, nil
  repeat
    local page = store.each("approval", "", after, ROWS) or {}
    for _, row in ipairs(page) do
      after = row.key
      local r = row.record
      if r and r.state == "open" and r["until"] > now then n = n + 1 end
    end
    seen = seen + #page
  until #page < ROWS or seen >= QUESTIONS_MAX
  return n
end

-- ---- the text ------------------------------------------------------------------------------------

local function label(s) return (tostring(s):gsub('[\\"]', "\\%0"):gsub("\n", "\\n")) end

local function family(out, metric, kind, help)
  out[#out + 1] = ("# HELP sallyport_%s %s\n# TYPE sallyport_%s %s"):format(metric, help, metric, kind)
end

local function line(out, metric, labels, value)
  local parts = {}
  for i = 1, #labels, 2 do parts[#parts + 1] = ('%s="%s"'):format(labels[i], label(labels[i + 1])) end
  out[#out + 1] = ("sallyport_%s%s %s"):format(metric, parts[1] and "{" .. table.concat(parts, ",") .. "}" or "", value)
end

local function histogram(out, metric, help, row)
  family(out, metric, "histogram", help)
  local n = 0
  for step = 0, STEPS - 1 do
    n = n + row[step]
    line(out, metric .. "_bucket", { "le", step < STEPS - 1 and ("%.3f"):format((1 << step) / 1000) or "+Inf" }, ("%d"):format(n))
  end
  line(out, metric .. "_sum", {}, ("%.3f"):format(row.sum / 1000))
  line(out, metric .. "_count", {}, ("%d"):format(n))
end

local function sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

--- read: of M.read; more = { store = bytes, waiting = n, version = }
function M.text(read, more)
  local out = {}
  family(out, "build_info", "gauge", "The version that runs.")
  line(out, "build_info", { "version", more.version }, 1)
  family(out, "requests_total", "counter", "Requests by decision, class of the status (none: the client went away first), agent and credential; many names are one, other.")
  table.sort(read.requests, function(a, b) return a.agent < b.agent or a.agent == b.agent and a.credential < b.credential end)
  for _, r in ipairs(read.requests) do
    for _, decision in ipairs { "allow", "deny" } do
      local n = decision == "allow" and r.allowed or r.refused
      for s = 0, STATUSES - 1 do
        if n[s] > 0 then
          line(out, "requests_total", { "decision", decision, "status", s == 0 and "none" or s .. "xx", "agent", r.agent, "credential", r.credential }, ("%d"):format(n[s]))
        end
      end
    end
  end
  family(out, "errors_total", "counter", "Answers and connections that ended with a code of ours: upstream_unreachable, upstream_tls, client_tls, host_not_allowed, …")
  for _, code in ipairs(sorted(read.codes)) do line(out, "errors_total", { "code", code }, ("%d"):format(read.codes[code])) end
  histogram(out, "first_byte_seconds", "From a request's head to the first byte of its answer.", read.took[1])
  histogram(out, "request_seconds", "From a request's head to the end of its answer.", read.took[2])
  histogram(out, "own_seconds", "Of requests that were sent on: until they were decided and had their credential.", read.took[3])
  family(out, "refreshes_total", "counter", "Tokens that were made anew, by how that ended.")
  for _, result in ipairs { "ok", "failed" } do
    line(out, "refreshes_total", { "result", result }, ("%d"):format((read.counts.refreshes or {})[result] or 0))
  end
  family(out, "log_drops_total", "counter", "Records that the log did not take in time, or could not write.")
  line(out, "log_drops_total", {}, ("%d"):format((read.counts.log_drops or {})[""] or 0))
  for _, g in ipairs { { "connections", "conns", "Open connections of clients." }, { "memory_bytes", "memory", "Bytes of a worker's heap in use." } } do
    family(out, g[1], "gauge", g[3])
    for i, w in ipairs(read.workers) do line(out, g[1], { "worker", tostring(i) }, ("%d"):format(w[g[2]])) end
  end
  family(out, "workers_ready", "gauge", "Workers that are up.")
  local ready = 0
  for _, w in ipairs(read.workers) do ready = ready + (w.ready and not w.late and 1 or 0) end
  line(out, "workers_ready", {}, ready)
  family(out, "store_bytes", "gauge", "Size of the store's file.")
  line(out, "store_bytes", {}, ("%d"):format(more.store or 0))
  family(out, "disk_free_bytes", "gauge", "Free where the store is.")
  line(out, "disk_free_bytes", {}, ("%d"):format(read.free))
  family(out, "approvals_waiting", "gauge", "Requests that wait for a person.")
  line(out, "approvals_waiting", {}, more.waiting or 0)
  return table.concat(out, "\n") .. "\n"
end

--- The text of this server now, in a worker | nil
function M.now(store)
  local host = require "host"
  local read = M.read(host)
  local file = host.stat(host.home() .. "/store/data.mdb")
  return read and M.text(read, { store = file and file.size, waiting = M.waiting(store, require("time").wall()), version = host.version })
end

-- ---- health --------------------------------------------------------------------------------------

--- Codes of what keeps this server from doing its work, a list; empty: it is ready. Anybody may read them: they say nothing
-- of what is configured.
function M.unready(store)
  local host, out = require "host", {}
  if not store.generation() then out[#out + 1] = "store_unavailable" end
  local ca = store.peek("meta", "ca")
  if not ca or type(ca.pem) ~= "string" then out[#out + 1] = "ca_unavailable" end
  if require("time").wall() < host.build_time then out[#out + 1] = "clock_unset" end
  local read = M.read(host)
  if read and read.free < DISK_MIN then out[#out + 1] = "disk_full" end
  for _, w in ipairs(read and read.workers or {}) do
    if w.late then      -- one that is being replaced is none: the others serve
      out[#out + 1] = "workers_late"
      break
    end
  end
  return out
end

-- ---- reading it again ------------------------------------------------------------------------------

--- The samples of such a text: { { name, labels = { name = value }, value } … }
function M.parse(text)
  local out = {}
  for l in text:gmatch("[^\n]+") do
    local metric, labels, value = l:match("^sallyport_([%w_]+){(.*)} (%S+)$")
    if not metric then metric, value = l:match("^sallyport_([%w_]+) (%S+)$") end
    if metric and tonumber(value) then
      local map = {}
      for k, v in (labels or ""):gmatch('([%w_]+)="(.-[^\\])"') do map[k] = v:gsub("\\(.)", function(c) return c == "n" and "\n" or c end) end
      for k in (labels or ""):gmatch('([%w_]+)=""') do map[k] = "" end
      out[#out + 1] = { name = metric, labels = map, value = tonumber(value) }
    end
  end
  return out
end

return M
