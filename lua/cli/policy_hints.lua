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

-- What people look for in a request under another name.
local synonyms = {
  url = "scheme, req.host, req.path or req.query_string", uri = "path", target = "path", verb = "method", content = "body",
  set_header = "headers:set", header = "headers", params = "query", args = "query", hostname = "host", protocol = "scheme",
}

-- Functions of that name, else of the nearest, else of one that it begins with.
local function members_like(manual, member)
  local all, names, found = manual.members(), {}, {}
  local function add(name)
    for _, full in ipairs(all) do
      if full:match("([%w_]+)$") == name then found[#found + 1] = full end
    end
    return found[1] ~= nil
  end
  for i, full in ipairs(all) do names[i] = full:match("([%w_]+)$") end
  local near = nearest(member, names)
  if add(member) or near and add(near) then return found end
  table.sort(names, function(a, b) return #a > #b end)
  for _, name in ipairs(names) do
    if #name >= 3 and member:sub(1, #name) == name and add(name) then return found end
  end
  return found
end

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
  local found = member and members_like(manual, member)
  if found then return text .. ": " .. (found[1] and ("did you mean %s?"):format(table.concat(found, " or ")) or "sallyport policy help lists what there is") end
  local lacks = text:match("a request has no ([%w_]+)")
  if lacks then
    local near = synonyms[lacks] or nearest(lacks, manual.request())
    return text .. ": " .. (near and ("did you mean req.%s?"):format(near) or "sallyport policy help req")
  end
  if text:find("(userdata)", 1, true) and text:find("'concat'", 1, true) then return text .. ": join secrets with .., or by secret.template" end
  local of, other = text:match("req%.(%a+) has no ([%w_]+)")
  if of then
    local names = {}
    for _, full in ipairs(manual.members()) do names[#names + 1] = full:match("^req%." .. of .. ":([%w_]+)$") end
    local close = nearest(other, names)
    return close and ("%s; did you mean req.%s:%s?"):format(text, of, close) or text
  end
  if text:find("nil value %(field 'body'%)") then return text .. ": a type that reads the body says body = { max = bytes }, and a request may have none" end
  local part = text:match("attempt to index a sallyport%.(%a+) value")
  if part == "headers" or part == "query" then
    return ("%s: it has functions: req.%s:get(name), req.%s:set(name, value)"):format(text, part, part)
  end
  local called, wanted = text:match("bad argument #1 to '([%w_]+)' %(sallyport%.(%a+) expected")
  if called then return ("%s: call it with a colon, req.%s:%s(…)"):format(text, wanted, called) end
  local misused = text:match("bad argument #%d+ to '([%w_.]+)'")
  if misused then
    local heads = manual.heads(misused)
    if heads[1] then return ("%s: it is %s"):format(text, table.concat(heads, " or ")) end
  end
  return text
end

return M
