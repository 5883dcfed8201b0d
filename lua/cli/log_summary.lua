--- `log --summary`: what was refused and what went out, counted by host. Of the records themselves nothing is kept.
local report = require "cli.report"
local terminal = require "cli.terminal"
local M = {}

local KEYS_MAX = 10000     -- hosts are whatever agents ask for: beyond so many the rest is one line
local SHOWN = 20           -- lines of each table at a terminal; --json has all

-- "GET api.example.com:443/v1", as a record of many refusals names the first and the last.
local function host_of(target)
  target = (type(target) == "string" or type(target) == "number") and tostring(target)
  return target and (target:match("^%S* (.-):%d*/") or target:match("^%S* (.*):%d*$")) or nil
end
M.host_of = host_of

-- Reasons of what the proxy answers itself, so that nothing goes out.
local own = { discover = true, proposals = true, ["token placeholder"] = true }

--- Did the proxy answer it, and send nothing?
function M.stayed(r) return own[r.reason] == true or r.host == "echo.sallyport.test" end

--- The host of a record, or "-".
function M.host(r) return type(r.host) == "string" and r.host or host_of(r.first) or "-" end

-- The method and port of a record, of many refusals those of the last | nil: it says none. In a line no text has a bare quote.
local function asked(r)
  local method, port = r.method, r.port
  if r.line then
    method, port = r.line:match(',"last":"(%u+) [^"]-:(%d+)/')
    if not method then method, port = r.line:match(',"method":"(%u+)"'), r.line:match(',"port":(%d+)') end
  end
  return type(method) == "string" and method or nil, math.tointeger(tonumber(port))
end

-- The row of this host and code (or credential), counted. A host beyond so many is one of the others.
local function count(into, host, other, member, n, time)
  local of = into.by[other]
  local row = of and of[host]
  if not row then
    if into.n >= KEYS_MAX then
      if host ~= "(others)" then return count(into, "(others)", "", member, n, time) end
    else
      into.n = into.n + 1
    end
    row = { host = host, count = 0, agents = {}, last = 0, [member] = (other ~= "" or member == "code") and other or nil }
    into.by[other], into.list[#into.list + 1] = of or {}, row
    into.by[other][host] = row
  end
  row.count = row.count + n
  if time > row.last then row.last = time end
  return row
end

-- Names of the presets that go to this host | nil: none.
local function presets_for(host, all)
  local names
  for _, p in ipairs(all) do
    for _, h in ipairs(p.hosts or {}) do
      if h == host or h:sub(1, 2) == "*." and host:sub(1 - #h) == h:sub(2) then
        names = names or report.array()
        names[#names + 1] = p.name
        break
      end
    end
  end
  return names
end

--- A summary to which records are added: it.add(record, host).
function M.new()
  local refused, sent = { by = {}, list = {}, n = 0 }, { by = {}, list = {}, n = 0 }
  local it, all = {}, { records = 0, refused = 0, sent = 0, answered = 0 }

  function it.add(r, host)
    local n = math.tointeger(type(r.count) == "number" and r.count) or 1
    local time, row = type(r.time) == "number" and r.time or 0, nil
    all.records = all.records + n
    if r.decision == "deny" then
      all.refused = all.refused + n
      row = count(refused, host, type(r.error) == "string" and r.error or type(r.reason) == "string" and r.reason or "?", "code", n, time)
      if row.code == "host_not_allowed" and time == row.last then row.method, row.port = asked(r) end
    elseif M.stayed(r) then
      all.answered = all.answered + n
      return
    else
      all.sent = all.sent + n
      row = count(sent, host, type(r.credential) == "string" and r.credential or "", "credential", n, time)
      local bad = type(r.error) == "string" or type(r.status) == "number" and r.status >= 400
      row.failed = (row.failed or 0) + (bad and n or 0)
    end
    if type(r.agent) == "string" then row.agents[r.agent] = true end
  end

  local function finish(list)
    for _, row in ipairs(list) do
      local names = report.array()
      for name in pairs(row.agents) do names[#names + 1] = name end
      table.sort(names)
      row.agents, row.last = names, report.time(row.last // 1000)
    end
    table.sort(list, function(a, b)
      if a.count ~= b.count then return a.count > b.count end
      return a.host .. (a.code or a.credential or "") < b.host .. (b.code or b.credential or "")
    end)
    return report.array(list)
  end

  --- { records, refused, sent, answered, refused_by_host, sent_by_host }. A host that is not allowed has the names of presets that go there.
  function it.result()
    all.refused_by_host, all.sent_by_host = finish(refused.list), finish(sent.list)
    local known
    for _, row in ipairs(all.refused_by_host) do
      if row.code == "host_not_allowed" then
        known = known or require("presets").load() or { presets = {} }
        row.presets = presets_for(row.host, known.presets)
      end
    end
    return all
  end
  return it
end

local function table_of(ctx, head, list, cells)
  local rows = {}
  for i = 1, math.min(#list, SHOWN) do rows[i] = cells(list[i]) end
  local text = terminal.columns(ctx, head, rows)
  return #list > SHOWN and text .. ("… %d more lines: --json\n"):format(#list - SHOWN) or text
end

--- Its numbers in one line.
function M.line(all)
  return ("%s: %d went out, %d refused%s"):format(report.count(all.records, "request"), all.sent, all.refused, all.answered > 0 and (", %d answered here"):format(all.answered) or "")
end

--- As people read it.
function M.text(ctx, all)
  local out = { M.line(all) .. "\n" }
  if #all.refused_by_host > 0 then
    out[#out + 1] = "\n" .. table_of(ctx, { "REFUSED", "HOST", "CODE", "AGENTS", "LAST" }, all.refused_by_host, function(r)
      return { r.count, r.host, r.code, report.several(r.agents, "-"), r.last }
    end)
  end
  if #all.sent_by_host > 0 then
    out[#out + 1] = "\n" .. table_of(ctx, { "SENT", "FAILED", "HOST", "CREDENTIAL", "AGENTS", "LAST" }, all.sent_by_host, function(r)
      return { r.count, r.failed, r.host, r.credential or "-", report.several(r.agents, "-"), r.last }
    end)
  end
  return table.concat(out)
end

return M
