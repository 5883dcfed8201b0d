--- sallyport top: what the server does now, from the numbers on its control socket (lua/metrics.lua).
local metrics = require "metrics"
local report = require "cli.report"
local terminal = require "cli.terminal"

local EVERY = 2000              -- ms between two looks
local ONCE = 1000               -- between the two of --once
local ROWS, CODES = 6, 4        -- that 24 lines have room for
local WIDTH = 80

-- ---- what is shown -------------------------------------------------------------------------------

local function read(ctx)
  local text, why = require("cli.control_client").text(ctx, "/metrics")
  if not text then report.fail(why, "sallyport serve; sallyport status says what runs") end
  local out = { at = require("time").boot(), one = {}, rows = {}, codes = {}, took = {}, workers = 0 }
  for _, s in ipairs(metrics.parse(text)) do
    local l = s.labels
    if s.name == "requests_total" then
      local key = l.agent .. "\n" .. l.credential
      local row = out.rows[key] or { agent = l.agent, credential = l.credential, requests = 0, refused = 0 }
      out.rows[key] = row
      row.requests = row.requests + s.value
      if l.decision == "deny" then row.refused = row.refused + s.value end
    elseif s.name == "errors_total" then
      out.codes[l.code] = s.value
    elseif s.name:find("_seconds_bucket$") then
      local name = s.name:match("^(.*)_seconds_bucket$")
      out.took[name] = out.took[name] or {}
      table.insert(out.took[name], { tonumber(l.le) or math.huge, s.value })
    elseif l.result then
      out.one["refreshes_" .. l.result] = s.value
    elseif s.name == "build_info" then
      out.version = l.version
    else
      if s.name == "connections" then out.workers = out.workers + 1 end
      out.one[s.name] = (out.one[s.name] or 0) + s.value
    end
  end
  return out
end

-- Below which time so many of a hundred lie, s; of those between two looks, or where there were none of all. nil: there are none.
local function percentile(now, before, part)
  local counts = {}
  for _, from in ipairs { before or false, {} } do
    if from then
      for i, b in ipairs(now) do counts[i] = b[2] - (from[i] and from[i][2] or 0) end
      if counts[#counts] > 0 then break end
    end
  end
  local n = counts[#counts] or 0
  if n <= 0 then return nil end
  for i, b in ipairs(now) do
    if counts[i] >= n * part / 100 then return b[1] end
  end
end

local function whole(n) return math.tointeger(n) or n end

local function rounded(n) return math.floor(n * 10 + 0.5) / 10 end

-- What the difference of two looks says, as --json has it.
local function told(now, before)
  local seconds = math.max(now.at - before.at, 1) / 1000
  local out = { version = now.version, workers = now.workers, ready = whole(now.one.workers_ready or 0), connections = whole(now.one.connections or 0),
    memory = whole(now.one.memory_bytes or 0), store = whole(now.one.store_bytes or 0), free = whole(now.one.disk_free_bytes or 0),
    waiting = whole(now.one.approvals_waiting or 0), log_drops = whole(now.one.log_drops_total or 0),
    refreshes = { ok = whole(now.one.refreshes_ok or 0), failed = whole(now.one.refreshes_failed or 0) },
    requests = 0, refused = 0, busiest = report.array(), errors = {} }
  local requests, refused = 0, 0
  for key, row in pairs(now.rows) do
    local was = before.rows[key] or { requests = 0, refused = 0 }
    out.requests, out.refused = out.requests + whole(row.requests), out.refused + whole(row.refused)
    requests, refused = requests + row.requests - was.requests, refused + row.refused - was.refused
    out.busiest[#out.busiest + 1] = { agent = row.agent, credential = row.credential, requests = whole(row.requests), refused = whole(row.refused),
      per_second = rounded((row.requests - was.requests) / seconds) }
  end
  table.sort(out.busiest, function(a, b)
    if a.per_second ~= b.per_second then return a.per_second > b.per_second end
    if a.requests ~= b.requests then return a.requests > b.requests end
    return a.agent .. "\n" .. a.credential < b.agent .. "\n" .. b.credential
  end)
  for i = #out.busiest, 65, -1 do out.busiest[i] = nil end
  out.requests_per_second, out.refused_per_second = rounded(requests / seconds), rounded(refused / seconds)
  for name, shown in pairs { first_byte = "first_byte", request = "total", own = "own" } do
    local of = {}
    for _, part in ipairs { 50, 95, 99 } do
      local s = now.took[name] and percentile(now.took[name], before.took[name], part)
      of["p" .. part] = s and s < math.huge and whole(s * 1000) or nil
    end
    out[shown] = of
  end
  for code, n in pairs(now.codes) do out.errors[code] = whole(n) end
  return out
end

local function size(n) return n >= 1 << 30 and ("%.1f GiB"):format(n / (1 << 30)) or ("%.1f MiB"):format(n / (1 << 20)) end

-- One screen: at most 22 lines of 80 columns.
local function screen(ctx, o, width)
  local lines = {}
  local function put(text, what)
    text = terminal.safe(text):gsub("\n", " ")
    lines[#lines + 1] = terminal.paint(ctx, what, (utf8.len(text) or #text) > width and text:sub(1, (utf8.offset(text, width + 1) or #text + 1) - 1) or text)
  end
  put(("sallyport %s  %d of %d workers  %s  heap %s  store %s"):format(o.version, o.ready, o.workers, report.count(o.connections, "connection"), size(o.memory), size(o.store)), "head")
  put(o.waiting > 0 and ("%d waiting for a person: sallyport approval list"):format(o.waiting) or "", "warn")
  put(("requests    %8.1f/s   refused %8.1f/s   since the start %d, refused %d"):format(o.requests_per_second, o.refused_per_second, o.requests, o.refused))
  for _, t in ipairs { { "first_byte", "first byte" }, { "total", "in all" }, { "own", "our own" } } do
    local cells = {}
    for _, part in ipairs { "p50", "p95", "p99" } do
      local ms = o[t[1]][part]
      cells[#cells + 1] = ms and ("%s under %6d ms"):format(part, ms) or ("%s %15s"):format(part, "-")
    end
    put(("%-11s %s"):format(t[2], table.concat(cells, "   ")))
  end
  put(("refreshes   %d ok, %d failed   log drops %d   free %s"):format(o.refreshes.ok, o.refreshes.failed, o.log_drops, size(o.free)))
  put ""
  put(("%-24s %-24s %9s %9s %9s"):format("AGENT", "CREDENTIAL", "REQ/S", "REQUESTS", "REFUSED"), "head")
  for i = 1, ROWS do
    local r = o.busiest[i]
    put(r and ("%-24s %-24s %9.1f %9d %9d"):format(r.agent == "" and "-" or r.agent:sub(1, 24), r.credential == "" and "-" or r.credential:sub(1, 24), r.per_second,
      r.requests, r.refused) or i == 1 and "no request yet" or "")
  end
  put ""
  put("ERRORS SINCE THE START", "head")
  local codes = {}
  for code, n in pairs(o.errors) do codes[#codes + 1] = { code, n } end
  table.sort(codes, function(a, b) return a[2] > b[2] or a[2] == b[2] and a[1] < b[1] end)
  for i = 1, CODES do put(codes[i] and ("%-32s %9d"):format(codes[i][1], codes[i][2]) or i == 1 and "none" or "") end
  if #codes > CODES then put(("and %d more: sallyport log --denied"):format(#codes - CODES)) end
  return table.concat(lines, "\n") .. "\n"
end

local function run(_, opt, ctx)
  local time, before = require "time", read(ctx)
  local live = not opt.once and ctx.host.isatty(1)
  repeat
    time.sleep(opt.once and ONCE or EVERY)
    local now = read(ctx)
    local out = told(now, before)
    before = now
    if ctx.json and opt.once then
      report.answer(ctx, out)
    elseif ctx.json then
      ctx.emit(out)
    else
      if live then io.stdout:write("\27[H\27[2J") end      -- ECMA-48: home, and an empty screen
      ctx.out(screen(ctx, out, terminal.width(ctx) or WIDTH))
    end
    if not io.stdout:flush() then return 0 end
  until opt.once
  return 0
end

return {
  { words = "top", max = 0, summary = "what the server does now", run = run,
    options = { { name = "once", help = "one look, over a second, and the end" } },
    help = [[
Shows requests, refusals, how long they take, the busiest agents and credentials, and errors, anew every two seconds; Ctrl-C
ends it. Times are of the last two seconds, or of all where nothing came in; they are bounds: "under 8 ms". It asks the
server on its control socket, so it is for the store's owner and root. sallyport help metrics says what is counted.

examples:
  sallyport top
  sallyport top --once --json
]] },
}
