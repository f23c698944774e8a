from studies.small_and_doubtful.study import main

main()
