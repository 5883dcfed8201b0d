--- What a script's error means, where Lua's own words do not say it: for people at a terminal.
local M = {}

local absent = {
  print = "policies have no print: log(…) shows in `policy test`, `policy try`, and the server's log with --verbose",
  require = "policies have no require: all that they may use is there already (sallyport policy help)",
  os = "policies have no os: time.wall() is the clock (sallyport policy help time)",
  io = "policies have no io: nothing is read or written but the request (sallyport policy help)",
  load = "policies load no code", dofile = "policies load no code", loadfile = "policies load no code",
  setmetatable = "policies have no metatables", getmetatable = "policies have no metatables",
  coroutine = "policies have no coroutines: refresh may wait, the rest may not",
  tostring = "tostring is there, but not for a secret",
}

local function nearest(word, list) return require("records").nearest(word, list) end

--- The text, and behind it what to do.
function M.of(text)
  text = tostring(text)
  local manual = require "cli.policy_manual"
  local global = text:match("%(global '([%w_]+)'%)")
  if global then
    local near = absent[global] or nearest(global, manual.globals())
    if near then return text .. ": " .. (absent[global] or ("did you mean %s?"):format(near)) end
  end
  local member = text:match("attempt to call a nil value %(%a+ '([%w_]+)'%)")
  if member then
    local found, names = {}, {}
    for _, full in ipairs(manual.members()) do
      local name = full:match("([%w_]+)$")
      names[#names + 1] = name
      if name == member then found[#found + 1] = full end
    end
    local near = not found[1] and nearest(member, names)
    for _, full in ipairs(near and manual.members() or {}) do
      if full:match("([%w_]+)$") == near then found[#found + 1] = full end
    end
    if found[1] then return ("%s: did you mean %s?"):format(text, table.concat(found, " or ")) end
  end
  local lacks = text:match("a request has no ([%w_]+)")
  local near = lacks and nearest(lacks, manual.request())
  if near then return ("%s: did you mean req.%s?"):format(text, near) end
  return text
end

return M
