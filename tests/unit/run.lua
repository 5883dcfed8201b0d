--- Runs unit tests: each file returns a table of name -> function; a case that returns has passed.
-- sallyport lua tests/unit/run.lua tests/unit/foo_test.lua …    One "ok" or "not ok" line a case.
local files = { ... }
if #files == 0 and arg then files = arg end

local failed = 0

local function run(file, name, case)
  local ok, err = xpcall(case, debug and debug.traceback or tostring)
  if ok then
    print("ok " .. name)
  else
    failed = failed + 1
    print("not ok " .. name .. " - " .. tostring(err):gsub("\n", "\\n"))
  end
end

for _, file in ipairs(files) do
  local cases = assert(loadfile(file))()
  local names = {}
  for name in pairs(cases) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do run(file, name, cases[name]) end
end

if failed > 0 then error(failed .. " failed", 0) end
