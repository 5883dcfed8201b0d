--- sallyport record: keeps what decisions read, for `policy replay`.
local db = require "cli.db"
local records = require "records"
local recorder = require "recorder"
local report = require "cli.report"

local LOOK_MS = 200         -- between two looks at what came
local LATE_S = 1            -- the log's writer is a moment behind
local HEADERS_MAX = 20

-- Nothing is recorded any more: the mark in the store and the file beside the log go.
local function stop(path)
  local kept = require("store").peek("meta", recorder.KEY)
  if kept then db.change(function() return { { op = "del", db = "meta", key = recorder.KEY } } end) end
  os.remove(path)
  return kept ~= nil
end

local function run(_, opt, ctx)
  db.open(ctx)
  local host, time, files = ctx.host, require "time", require "cli.log_files"
  local path = require("cli.log_place").current(ctx) .. ".traffic"
  if opt.stop then
    local was = stop(path)
    ctx.note(was and "Recording has stopped." or "Nothing was recorded.")
    report.answer(ctx, { stopped = was })
    return 0
  end
  if not opt["for"] or not opt.out then report.usage("for how long, and into which file?", "sallyport record --for 10m --out traffic.jsonl") end
  local span, why = records.duration(opt["for"])
  if not span then report.usage("--for: " .. why) end
  if opt.agent then db.need("agent", opt.agent) end
  local headers = {}
  for i, name in ipairs(opt.header or {}) do
    if i > HEADERS_MAX or not require("http").field_name_ok(name) then report.usage("--header names a header whose values are kept, at most 20") end
    headers[i] = name:lower()
  end
  if not host.lock_held(ctx.home) then report.fail("no proxy runs here, so there is nothing to record", "sallyport serve") end
  local out, bad = host.create(opt.out)
  if not out then report.fail(("cannot make %s: %s"):format(report.clean(opt.out), bad), "a recording never takes an existing file's place") end
  stop(path)
  local made
  made, bad = host.create(path)
  if not made then report.fail(("cannot make %s: %s"):format(path, bad)) end
  made:close()
  local source = io.open(path, "rb")
  local inode = host.stat(path).inode
  local function ours()         -- no: somebody stopped it, and perhaps began another one
    local st = host.stat(path)
    return st and st.inode == inode
  end
  local wait, ended = host.interrupts(), false
  local began = time.wall()
  local till = began + span
  db.change(function()
    return { { op = "put", db = "meta", key = recorder.KEY, plain = { till = till, agent = opt.agent, headers = headers } } }
  end)
  ctx.note(("Recording until %s into %s; Ctrl-C or `sallyport record --stop` ends it sooner."):format(report.time(till), report.clean(opt.out)))
  local count = 0
  local from = { f = source, at = 0 }
  local function take(line)
    count = count + 1
    out:write(line)
  end
  repeat
    ended = wait(LOOK_MS)
    files.forward(from, take)
    out:flush()
  until time.wall() >= till + LATE_S or ended or not ours()
  files.forward(from, take)
  local fine = out:close()
  if ours() then stop(path) end
  source:close()
  if not fine then report.fail(("cannot write %s"):format(report.clean(opt.out))) end
  ctx.note(("%d request%s recorded. Next: sallyport policy replay [DRAFT.lua] %s"):format(count, count == 1 and " was" or "s were", report.clean(opt.out)))
  report.answer(ctx, { file = opt.out, requests = count, from = report.time(began), to = report.time(time.wall()) })
  return 0
end

return { { words = "record", max = 0, summary = "keep what decisions read, for `policy replay`",
  options = {
    { name = "for", arg = "TIME", help = "how long: 10m, 2h" },
    { name = "agent", arg = "AGENT", help = "of this agent alone" },
    { name = "header", arg = "NAME", many = true, help = "a header whose value is kept, too (a rule reads it); others by name alone" },
    { name = "out", arg = "FILE", help = "a new file, mode 600: JSON lines" },
    { name = "stop", help = "end a recording" },
  },
  help = [[
Writes a line for each request that the proxy decides: time, agent, method, URL, the names of its headers, the size of its body,
whose placeholder stood where, what its rules' counters said, and the decision. Values of headers only where --header names
them; of a body nothing but the members that a rule of that bundle reads (rule.members), with their values; and of the query no
value of a name that sounds like a key (token=, sig=). The file can be kept beside
policies: `sallyport policy replay` says what a draft would decide otherwise. It ends by itself.

examples:
  sallyport record --for 10m --out traffic.jsonl
  sallyport record --for 1h --agent ci --header content-type --out ci.jsonl
  sallyport record --stop
]], run = run } }
