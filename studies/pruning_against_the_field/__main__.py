from studies.pruning_against_the_field.study import main

main()
